"""Finds, in the files that the target has mapped, small pieces of code that every libc holds.

Strategy: the executable part of a file is searched on disk, the C library first, so no page of the
target is touched. The helper compares the bytes in memory before it relies on them, while the
thread stands still.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from allocscope.errors import MissingPart
from allocscope.immutable import immutable
from allocscope.model.process import Mapping
from allocscope.proc.mapped import open_mapped_file

_SYSCALL_RETURN = b"\x0f\x05\xc3"
_RESTORER = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"
_POPS = (b"\x5f\xc3", b"\x5e\xc3", b"\x58\xc3")
_STORE = re.compile(rb"\x89(?:\x07|\x47(?P<displacement>[^\x00]))\xc3", re.DOTALL)
_LIBC_NAMES = ("libc.so", "libc-2.", "libc.musl", "ld-musl")
_LONGEST_SEARCH = 64 << 20


@immutable
class Code:
    """Addresses in the target: ``syscall; ret``, and what a signal handler returns to."""

    syscall_return: int
    restorer: int


@immutable
class Links:
    """Addresses in the target: ``pop; ret`` for three registers, and what stores eax at
    ``store_displacement`` from rdi, and returns."""

    pop_rdi: int
    pop_rsi: int
    pop_rax: int
    store_eax: int
    store_displacement: int


def find(pid: int, mappings: Iterable[Mapping]) -> Code:
    """Raises MissingPart when no mapped file holds both."""
    for start, text in _texts(pid, mappings):
        call, restorer = text.find(_SYSCALL_RETURN), text.find(_RESTORER)
        if call >= 0 and restorer >= 0:
            return Code(start + call, start + restorer)
    raise MissingPart(
        f"process {pid} has no readable library with the code that a snapshot is started with",
        "Run as root if its files belong to somebody else; what only reads does without.",
    )


def find_links(pid: int, mappings: Iterable[Mapping]) -> Links:
    """Raises MissingPart when no mapped file holds all of them."""
    for start, text in _texts(pid, mappings):
        pops = [text.find(pop) for pop in _POPS]
        store = _STORE.search(text)
        if store and min(pops) >= 0:
            displacement = int.from_bytes(store["displacement"] or b"", "little", signed=True)
            rdi, rsi, rax = (start + pop for pop in pops)
            return Links(rdi, rsi, rax, start + store.start(), displacement)
    raise MissingPart(
        f"process {pid} has no readable library with the code that a call is put together from",
        "A static program may lack some of it. Run as root if its files belong to somebody else.",
    )


def text_at(pid: int, mappings: Iterable[Mapping], address: int, size: int) -> bytes:
    """``size`` bytes of code as the file has them that is mapped at ``address``; fewer where it
    ends, none where it cannot be read."""
    for mapping in mappings:
        if mapping.start <= address < mapping.end and mapping.inode:
            file = open_mapped_file(pid, mapping)
            if file is not None:
                with file:
                    return file.read(mapping.offset + address - mapping.start, size)
    return b""


def _texts(pid: int, mappings: Iterable[Mapping]) -> Iterator[tuple[int, bytes]]:
    """The executable parts of the mapped files: their addresses in the target, and their bytes."""
    candidates = [m for m in mappings if m.perms[2] == "x" and m.inode and m.readable]
    for mapping in sorted(candidates, key=_is_no_libc):
        file = open_mapped_file(pid, mapping)
        if file is not None:
            with file:
                yield (
                    mapping.start,
                    file.read(mapping.offset, min(mapping.size_bytes, _LONGEST_SEARCH)),
                )


def _is_no_libc(mapping: Mapping) -> bool:
    return not mapping.path.rpartition("/")[2].startswith(_LIBC_NAMES)
