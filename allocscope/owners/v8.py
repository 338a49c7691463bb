"""V8's heap: chunks of 256 KiB (or, for a large object, more), each with a header.

Strategy: a chunk lies at a multiple of 256 KiB. What is known of it is its size, the heap that it
belongs to, and where its area of objects begins and ends. In V8 8 to 11 (Node 14 to 20) that stands
at its start, flags second; in V8 12 (Node 22) flags stand first and the chunk's own address second;
in V8 13 (Node 24) only flags and a pointer stand there, to an object elsewhere that has the rest
and points back. All chunks of an isolate name the same heap.

Rules: sizes and places must fit each other, and a heap must have at least two chunks.

Source: V8's src/heap/basic-memory-chunk.h, memory-chunk-metadata.h; Node 18 to 24 as they run.
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
HEADER = struct.Struct("<6Q")
METADATA = struct.Struct("<11Q")
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
    headers = [
        (place, HEADER.unpack(header))
        for place, header in zip(places, memory.read_each(places, HEADER.size), strict=True)
        if header is not None
    ]
    found = [chunk for place, words in headers if (chunk := _with_header(place, words)) is not None]
    found += _with_metadata(memory, headers)
    heaps = Counter(chunk.heap for chunk in found)
    for chunk in found:
        if heaps[chunk.heap] >= FEWEST_CHUNKS:
            evidence = (
                f"a chunk header of {chunk.size} bytes, one of {heaps[chunk.heap]} that name the "
                f"heap at {chunk.heap:#x}"
            )
            yield Claim(chunk.start, chunk.start + chunk.size, "runtime-heap", "V8 heap", evidence)


def _with_header(start: int, words: Sequence[int]) -> _Chunk | None:
    """A chunk that says everything itself."""
    if words[1] == start:
        size, heap, area_start, area_end = words[2:6]
    else:
        size, _, heap, area_start, area_end = words[:5]
    return _chunk(start, size, heap, area_start, area_end)


def _with_metadata(
    memory: Memory, headers: Sequence[tuple[int, Sequence[int]]]
) -> Iterator[_Chunk]:
    """Chunks that lead to an object elsewhere, which leads back: its words are a pointer to its
    functions, the chunk and its size, four counters of no interest, the area's end, the heap, and
    the area's start."""
    leading = [(place, words[1]) for place, words in headers if words[1] % 8 == 0 and words[1]]
    told = memory.read_each([pointer for _, pointer in leading], METADATA.size)
    for (place, _), data in zip(leading, told, strict=True):
        if data is None:
            continue
        _, start, size, _, _, _, _, area_end, heap, area_start, _ = METADATA.unpack(data)
        chunk = _chunk(place, size, heap, area_start, area_end) if start == place else None
        if chunk is not None:
            yield chunk


def _chunk(start: int, size: int, heap: int, area_start: int, area_end: int) -> _Chunk | None:
    if not size or size > MOST_CHUNK_BYTES or heap % 8 or not heap:
        return None
    sound = start < area_start < start + MOST_HEADER_BYTES and area_start < area_end <= start + size
    return _Chunk(start, -(-size // PAGE) * PAGE, heap) if sound else None
