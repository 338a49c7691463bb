"""The map of the heaps' pages: what the walk told of each, and which of them are lazily freed.

Frames are asked only where smaps counts lazily freed pages, and only of those mappings. A heap that
was read before such a page came or went is shown as it was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from allocscope.glibc.pieces import Piece
from allocscope.glibc.reading import HeapReading
from allocscope.model.page_map import FREE, HELD, LAZY, PAGE, HeapPages, PageMap
from allocscope.model.process import SmapsEntry
from allocscope.proc.memory import ProcessMemory
from allocscope.proc.pages import FrameFlags

Span = tuple[int, int]


def page_map(memory: ProcessMemory, reading: HeapReading, entries: Sequence[SmapsEntry]) -> PageMap:
    """Of a reading whose walks mapped pages (``memory.maps_pages``)."""
    heaps = cells_by_heap(reading)
    suspected = [
        (low, high)
        for entry in entries
        if entry.lazyfree_bytes
        for heap in heaps
        if (low := max(heap.start, entry.mapping.start))
        < (high := min(heap.start + len(heap.cells) * PAGE, entry.mapping.end))
    ]
    if not suspected:
        return PageMap(heaps, lazy_known=True)
    frames = FrameFlags.open_if_allowed()
    if frames is None:
        return PageMap(heaps, lazy_known=False)
    with frames:
        runs = sorted(
            chain.from_iterable(
                chain.from_iterable(frames.lazy_runs(memory, low, high) for low, high in suspected)
            )
        )
    return PageMap(tuple(with_lazy(heap, runs) for heap in heaps), lazy_known=True)


def cells_by_heap(reading: HeapReading) -> tuple[HeapPages, ...]:
    """What the walks told of each page, heap by heap."""
    return tuple(
        HeapPages(arena.index, piece.start // PAGE * PAGE, _own_cells(piece))
        for arena in reading.arenas
        for piece in arena.pieces
    )


def with_lazy(heap: HeapPages, runs: Iterable[Span]) -> HeapPages:
    """The heap with its lazily freed pages marked, as far as they are in memory and free: one that
    the program has filled again only looks so until the kernel comes by."""
    cells = bytearray(heap.cells)
    for start, end in runs:
        first = max((start - heap.start) // PAGE, 0)
        last = min((end - heap.start) // PAGE, len(cells))
        if first < last:
            cells[first:last] = cells[first:last].translate(_LAZY_IF_FREE)
    return HeapPages(heap.arena_index, heap.start, bytes(cells))


_LAZY_IF_FREE = bytes(LAZY if FREE <= cell < HELD else cell for cell in range(256))


def _own_cells(piece: Piece) -> bytes:
    """The walk's cells up to where the next row, or another's memory, begins."""
    cells = piece.tally.cells or b""
    end = max(piece.end, piece.start + piece.mprotect_bytes)
    return cells[: -(-end // PAGE) - piece.start // PAGE]
