"""Ruby's heap: pages of object slots, the transient heap, and the stacks of fibers.

Strategy: a heap page (16 KiB up to Ruby 3.1, 64 KiB from 3.2 on) begins with a pointer to its
``struct heap_page``, which begins with the size and the number of the page's slots, and which
points back to the first slot (gc.c). Blocks of the transient heap (transient_heap.c, 2.6 to 3.2)
lie 32 KiB apart and point to each other, nearly all of them. An unused stack of the fiber pool says
at the start of its last page where it begins and how long it is (cont.c, struct
fiber_pool_vacancy).

Rules: pointers must lead there and back; one page alone is none.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from allocscope.glibc.protocols import Memory
from allocscope.model.owners import Claim

PAGE_SHAPES = (1 << 16, 1 << 14)
PAGE_STRUCT = struct.Struct("<HH4x7Q")
FIRST_SLOT_BYTES = 512
SMALLEST_SLOT = 40
FEWEST_PAGES = 2
BLOCK_BYTES = 1 << 15
FEWEST_BLOCKS = 8
LINKED_RATIO = 0.9
"""All blocks are put into lists at the start, so nearly each of them is pointed to (1,022 of 1,024
in Ruby 3.1); in a large heap of another runtime a few words will look like it by chance."""
PAGE = 4096
VACANCY = struct.Struct("<4Q")
Span = tuple[int, int]


def claims(memory: Memory, spans: Sequence[Span]) -> Iterator[Claim]:
    """Claims within ``spans``: anonymous memory that nobody else owns."""
    for span in spans:
        yield from _fiber_stack(memory, span)
        pages = _pages(memory, span)
        if pages:
            yield from pages
        else:
            yield from _transient(memory, span)


def _pages(memory: Memory, span: Span) -> list[Claim]:
    for size in PAGE_SHAPES:
        places = _steps(memory, span, size)
        words = memory.read_each(places, 8)
        pairs = [
            (place, int.from_bytes(word, "little"))
            for place, word in zip(places, words, strict=True)
            if word is not None
        ]
        structs = memory.read_each([pointer for _, pointer in pairs], PAGE_STRUCT.size)
        found = [
            place
            for (place, _), data in zip(pairs, structs, strict=True)
            if data is not None and _describes(place, data, size)
        ]
        if len(found) >= FEWEST_PAGES:
            evidence = (
                f"{len(found)} pages of {size} bytes whose heap_page structs point back to them"
            )
            return [
                Claim(low, min(high, span[1]), "runtime-heap", "Ruby heap pages", evidence)
                for low, high in _joined(found, size)
            ]
    return []


def _describes(place: int, data: bytes, size: int) -> bool:
    slot, count, *words = PAGE_STRUCT.unpack(data)
    if slot < SMALLEST_SLOT or slot % 8 or not size // 2 < slot * count <= size:
        return False
    return any(place < word < place + FIRST_SLOT_BYTES for word in words)


def _steps(memory: Memory, span: Span, size: int) -> list[int]:
    """Multiples of ``size`` whose page is there."""
    return [
        place
        for start, end in memory.runs(*span)
        for place in range(-(-start // size) * size, end, size)
    ]


def _joined(places: Sequence[int], size: int) -> list[Span]:
    joined: list[Span] = []
    for place in places:
        if joined and joined[-1][1] == place:
            joined[-1] = (joined[-1][0], place + size)
        else:
            joined.append((place, place + size))
    return joined


def _transient(memory: Memory, span: Span) -> Iterator[Claim]:
    places = _steps(memory, span, BLOCK_BYTES)
    words = memory.read_each([place + 8 for place in places], 8)
    inside = {int.from_bytes(word, "little") for word in words if word is not None}
    linked = [place for place in places if place in inside]
    if len(linked) >= max(FEWEST_BLOCKS, LINKED_RATIO * len(places)):
        evidence = f"{len(linked)} blocks of {BLOCK_BYTES} bytes that point to each other"
        end = min(max(places) + BLOCK_BYTES, span[1])
        yield Claim(min(places), end, "runtime-heap", "Ruby transient heap", evidence)


def _fiber_stack(memory: Memory, span: Span) -> Iterator[Claim]:
    start, end = span
    [data] = memory.read_each([end - PAGE], VACANCY.size)
    if data is None:
        return
    base, _, size, available = VACANCY.unpack(data)
    if base <= start < end == base + size and 0 < available <= size:
        evidence = f"the fiber pool's entry at {end - PAGE:#x} says so"
        yield Claim(start, end, "thread-stacks", "unused stack of a Ruby fiber", evidence)
