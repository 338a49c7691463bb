"""CPython's own allocator: arenas of pools, and the chunks of its interpreter stacks.

Strategy: obmalloc (Objects/obmalloc.c) cuts arenas of 1 MiB into pools of 16 KiB (256 KiB and 4 KiB
up to 3.9), each of which begins with a header: how many blocks are used, the first free one, two
links, the index of its arena, the size class, where the next block is cut and the last place where
one can be. The last two follow from the size class alone, so a header is told with certainty. The
interpreter keeps frames in chunks of 16 KiB and more with a header of their own
(_PyStackChunk, 3.11 on).

Rules: a pool counts only when all fields fit each other; memory between pools of one arena is the
arena's; where a page of a pool that should be there is not a pool, the row ends.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from allocscope.glibc.layouts import WORD
from allocscope.glibc.protocols import Memory
from allocscope.model.owners import Claim

POOL_SHAPES = ((1 << 14, 1 << 20), (1 << 12, 1 << 18))
"""Sizes of pool and arena: 3.10 on, and before."""
HEADER = struct.Struct("<IxxxxQQQIIII")
HEADER_BYTES = HEADER.size
ALIGN = 16
CLASSES = 32
FEWEST_POOLS = 2
STACK_CHUNK = struct.Struct("<QQQ")
STACK_CHUNK_BYTES = 1 << 14
PAGE = 4096
MOST_BESIDE_BYTES = 1 << 20
Span = tuple[int, int]


def claims(memory: Memory, spans: Sequence[Span]) -> Iterator[Claim]:
    """Claims within ``spans``: anonymous memory that nobody else owns."""
    for span in spans:
        arenas = list(_arenas(memory, span))
        yield from arenas
        yield from _stack_chunks(memory, span, arenas)


def _is_pool(address: int, header: bytes, pool_bytes: int) -> int | None:
    """The arena's index, None where this is no pool."""
    used, free, after, before, arena, size_index, cut, last = HEADER.unpack(header)
    size = (size_index + 1) * ALIGN
    if size_index >= CLASSES or last != pool_bytes - size:
        return None
    if used > (pool_bytes - HEADER_BYTES) // size or not HEADER_BYTES <= cut <= pool_bytes:
        return None
    if free and not address + HEADER_BYTES <= free < address + pool_bytes:
        return None
    return int(arena) if after % 8 == 0 and before % 8 == 0 else None


def _arenas(memory: Memory, span: Span) -> Iterator[Claim]:
    for pool_bytes, arena_bytes in POOL_SHAPES:
        found = list(_rows_of_pools(memory, span, pool_bytes, arena_bytes))
        pools = sum(count for _, _, count in found)
        if pools >= FEWEST_POOLS:
            for start, end, count in found:
                yield Claim(
                    start,
                    end,
                    "runtime-heap",
                    "CPython arenas",
                    f"{count} pool headers of {pool_bytes} bytes each, whose fields fit each other",
                )
            return


def _rows_of_pools(
    memory: Memory, span: Span, pool_bytes: int, arena_bytes: int
) -> Iterator[tuple[int, int, int]]:
    """(start, end, pools) of rows of pools, from the first to the end of the last."""
    low, high = -(-span[0] // pool_bytes) * pool_bytes, span[1]
    places = [
        place
        for start, end in memory.runs(low, high)
        for place in range(-(-start // pool_bytes) * pool_bytes, end, pool_bytes)
    ]
    row: tuple[int, int, int] | None = None
    headers = memory.read_each(places, HEADER_BYTES)
    for place, header in zip(places, headers, strict=True):
        pool = header is not None and _is_pool(place, header, pool_bytes) is not None
        near = row is not None and place - row[1] < arena_bytes
        if pool and row is not None and near:
            row = (row[0], min(place + pool_bytes, high), row[2] + 1)
        elif pool:
            if row is not None:
                yield row
            row = (place, min(place + pool_bytes, high), 1)
        elif row is not None:
            yield row
            row = None
    if row is not None:
        yield row


def _stack_chunks(memory: Memory, span: Span, arenas: Sequence[Claim]) -> Iterator[Claim]:
    """A chunk has its size and how many words of it are used behind a pointer to the one before. It
    begins a mapping, or lies beside arenas, with which the kernel joined its own."""
    gaps = _gaps(span, arenas) if arenas else [span]
    for start, end in gaps:
        at = start
        while end - at >= STACK_CHUNK_BYTES:
            size = _stack_chunk_bytes(memory, at, end)
            if size:
                evidence = f"an interpreter stack chunk of {size} bytes says so"
                yield Claim(at, at + size, "runtime-heap", "CPython stack chunks", evidence)
            elif not arenas:
                break
            at += size or PAGE


def _gaps(span: Span, arenas: Sequence[Claim]) -> list[Span]:
    """What is beside the arenas of a span, up to an arena's length each."""
    edges = [span[0], *(edge for claim in arenas for edge in (claim.start, claim.end)), span[1]]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [(start, end) for start, end in pairs if start < end <= start + MOST_BESIDE_BYTES]


def _stack_chunk_bytes(memory: Memory, at: int, end: int) -> int:
    """How long the chunk at ``at`` is, 0 where there is none."""
    [header] = memory.read_each([at], STACK_CHUNK.size)
    if header is None:
        return 0
    before, size, used = STACK_CHUNK.unpack(header)
    sound = size % STACK_CHUNK_BYTES == 0 and 0 < size <= end - at and before % PAGE == 0
    return int(size) if sound and used <= size // WORD else 0
