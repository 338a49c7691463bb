"""What the loader owns: the main thread's control block with its thread-local storage, and the
memory from which ld.so allocates before malloc is there.

Strategy: ld.so takes a few pages from mmap as it goes (elf/dl-minimal.c), and puts the main
thread's block (elf/dl-tls.c) and its list of loaded objects there. The block's address is known;
the list begins at the address that ld.so notes for debuggers in the program's dynamic section
(DT_DEBUG, struct r_debug, then struct link_map: link.h). Rules: a small mapping that holds one of
them is the loader's as a whole; of a larger one only the pages are that hold them.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from allocscope.errors import BadInput, MemoryGap
from allocscope.glibc.layouts import WORD
from allocscope.glibc.protocols import Memory
from allocscope.model.owners import Claim
from allocscope.model.process import AuxVector
from allocscope.parse.elf import DT_DEBUG, PT_DYNAMIC, PT_PHDR

PAGE = 4096
SMALL_BYTES = 1 << 18
MOST_OBJECTS = 4096
HEADER_BYTES = 56
MAP_BYTES = 5 * WORD
MAP_STRUCT_BYTES = 0x480


def loader_claims(
    memory: Memory,
    spans: Sequence[tuple[int, int]],
    main_tcb: int | None,
    auxv: AuxVector | None,
) -> Iterator[Claim]:
    """Claims within ``spans``: anonymous memory that nobody else owns, ascending."""
    if main_tcb is not None:
        yield from _around(spans, main_tcb, "the main thread's control block", PAGE)
    objects = [] if auxv is None else link_maps(memory, auxv)
    seen: set[int] = set()
    for address in objects:
        for claim in _around(spans, address, "the loader's list of objects", MAP_STRUCT_BYTES):
            if claim.start not in seen:
                seen.add(claim.start)
                yield claim


def _around(
    spans: Sequence[tuple[int, int]], address: int, what: str, size: int
) -> Iterator[Claim]:
    index = bisect_right(spans, (address, 1 << 64)) - 1
    if index < 0 or not spans[index][0] <= address < spans[index][1]:
        return
    start, end = spans[index]
    if end - start > SMALL_BYTES:
        start = max(start, address // PAGE * PAGE)
        end = min(end, -(-(address + size) // PAGE) * PAGE)
    evidence = f"{what} lies there, at {address:#x}"
    yield Claim(start, end, "loader-and-special", "the loader's own memory", evidence)


def link_maps(memory: Memory, auxv: AuxVector) -> list[int]:
    """Addresses of the loader's ``struct link_map``, in its order; as far as they can be read. Of a
    32-bit program none are."""
    found: list[int] = []
    if memory.abi.word_bytes != WORD:
        return found
    try:
        debug = _debug_address(memory, auxv)
        at = _word(memory, debug + WORD) if debug else 0
        while at and at not in found and len(found) < MOST_OBJECTS:
            found.append(at)
            at = struct.unpack("<5Q", memory.read(at, MAP_BYTES))[3]
    except (MemoryGap, BadInput):
        pass
    return found


def _word(memory: Memory, address: int) -> int:
    return int.from_bytes(memory.read(address, WORD), "little")


def _debug_address(memory: Memory, auxv: AuxVector) -> int:
    """The value of DT_DEBUG in the program's dynamic section, 0 without one."""
    headers = memory.read(auxv.phdr, HEADER_BYTES * min(auxv.phnum, 256))
    segments = [
        struct.unpack_from("<IIQQQQ", headers, at) for at in range(0, len(headers), HEADER_BYTES)
    ]
    bias = next((auxv.phdr - s[3] for s in segments if s[0] == PT_PHDR), None)
    dynamic = next((s for s in segments if s[0] == PT_DYNAMIC), None)
    if bias is None or dynamic is None:
        return 0
    at = bias + dynamic[3]
    for tag, value in struct.iter_unpack("<QQ", memory.read(at, min(dynamic[5], 1 << 14))):
        if tag == DT_DEBUG:
            return int(value)
    return 0
