"""V8's heap: chunks of 256 KiB (or, for a large object, more), each with a header.

Strategy: a chunk lies at a multiple of 256 KiB and begins with its size, flags, the heap that it
belongs to, and where its area of objects begins and ends (BasicMemoryChunk,
src/heap/basic-memory-chunk.h; the order of V8 8 to 11, that is Node 14 to 20). All chunks of an
isolate name the same heap.

Rules: sizes and places must fit each other, and a heap must have at least two chunks.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Sequence

from allocscope.glibc.protocols import Memory
from allocscope.immutable import immutable
from allocscope.model.owners import Claim

CHUNK_BYTES = 1 << 18
PAGE = 4096
HEADER = struct.Struct("<5Q")
MOST_HEADER_BYTES = 1 << 16
MOST_CHUNK_BYTES = 1 << 36
FEWEST_CHUNKS = 2


@immutable
class _Chunk:
    start: int
    size: int
    heap: int


def claims(memory: Memory, spans: Sequence[tuple[int, int]]) -> Iterator[Claim]:
    """Claims for memory that begins within ``spans``: anonymous memory that nobody else owns."""
    places = [
        place
        for start, end in spans
        for place in range(-(-start // CHUNK_BYTES) * CHUNK_BYTES, end, CHUNK_BYTES)
    ]
    headers = memory.read_each(places, HEADER.size)
    found = [
        chunk
        for place, header in zip(places, headers, strict=True)
        if header is not None and (chunk := _chunk(place, header)) is not None
    ]
    heaps = Counter(chunk.heap for chunk in found)
    for chunk in found:
        if heaps[chunk.heap] >= FEWEST_CHUNKS:
            evidence = (
                f"a chunk header of {chunk.size} bytes, one of {heaps[chunk.heap]} that name the "
                f"heap at {chunk.heap:#x}"
            )
            yield Claim(chunk.start, chunk.start + chunk.size, "runtime-heap", "V8 heap", evidence)


def _chunk(start: int, header: bytes) -> _Chunk | None:
    size, _, heap, area_start, area_end = HEADER.unpack(header)
    if not size or size > MOST_CHUNK_BYTES:
        return None
    sound = start < area_start < start + MOST_HEADER_BYTES and area_start < area_end <= start + size
    if not sound or heap % 8 or not heap:
        return None
    return _Chunk(start, -(-size // PAGE) * PAGE, heap)
