"""What holds free memory hostage: the highest held chunk of each heap, and size classes.

``free`` gives memory back only from the end of a heap, and only where everything up to there is
free: so the highest chunk that is held decides.
"""

from __future__ import annotations

from collections.abc import Iterable

from allocscope.account.heap_end import Sizes, can_shrink, released_by_free
from allocscope.glibc.abi import Abi
from allocscope.glibc.pieces import Piece
from allocscope.glibc.reading import HeapReading
from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX
from allocscope.model.pins import HeldBy, PinningClass
from allocscope.model.walk import Pins

HELD: dict[int, HeldBy] = {1: "live", 2: "tcache", 3: "fastbin", 4: "tcache-struct"}
"""By as_pins.last_kind (probes/include/pins.h)."""


@immutable
class HeapEnd:
    """The highest held chunk of one heap. The meaning of the figures is in model/pins.py."""

    arena_index: int
    heap_start: int = field(metadata=HEX)
    chunk: int = field(metadata=HEX)
    size_bytes: int
    held_by: HeldBy
    run_count: int
    run_bytes: int
    free_bytes_below: int
    released_if_freed_bytes: int | None


def heap_ends(
    reading: HeapReading, abi: Abi, brk_end: int, resident: Sizes | None
) -> list[HeapEnd]:
    """One for each heap that has such a chunk with free memory below it, by what freeing it would
    release, then by the free memory below. ``brk_end``: where the break ends. ``resident``: None
    where nothing tells what is."""
    found = []
    for arena in reading.arenas:
        for piece in arena.pieces:
            pins = piece.tally.pins
            if pins is None or not pins.last:
                continue
            end = _end(reading, abi, arena.index, piece, pins, brk_end, resident)
            if end.free_bytes_below or end.released_if_freed_bytes != 0:
                found.append(end)
    found.sort(key=lambda e: (-(e.released_if_freed_bytes or 0), -e.free_bytes_below, e.chunk))
    return found


def _end(
    reading: HeapReading,
    abi: Abi,
    index: int,
    piece: Piece,
    pins: Pins,
    brk_end: int,
    resident: Sizes | None,
) -> HeapEnd:
    alone = pins.run_count == 1
    new_top = pins.below_start if alone else pins.last
    released: int | None = 0
    if can_shrink(index, piece, brk_end):
        released = released_by_free(reading.par, abi, new_top, piece.end, resident)
    return HeapEnd(
        arena_index=index,
        heap_start=piece.start,
        chunk=pins.last,
        size_bytes=pins.last_size,
        held_by=HELD[pins.last_kind],
        run_count=pins.run_count,
        run_bytes=pins.last + pins.last_size - pins.run_start,
        free_bytes_below=pins.run_start - pins.below_start,
        released_if_freed_bytes=released,
    )


def pinning_classes(reading: HeapReading) -> tuple[PinningClass, ...]:
    """Summed over all heaps, by falling pinned bytes."""
    sums: dict[tuple[int, int], tuple[int, int]] = {}
    for pins in _all(reading):
        for row in pins.classes:
            count, pinned = sums.get((row.min_bytes, row.max_bytes), (0, 0))
            sums[row.min_bytes, row.max_bytes] = (count + row.live_count, pinned + row.pinned_bytes)
    rows = [PinningClass(*bounds, *figures) for bounds, figures in sums.items()]
    return tuple(sorted(rows, key=lambda row: (-row.pinned_bytes, row.size_bytes)))


def mixed_bytes(reading: HeapReading) -> int:
    return sum(pins.mixed_bytes for pins in _all(reading))


def parked_bytes(reading: HeapReading) -> int:
    return sum(pins.parked_bytes for pins in _all(reading))


def _all(reading: HeapReading) -> Iterable[Pins]:
    pieces = (piece for arena in reading.arenas for piece in arena.pieces)
    return (piece.tally.pins for piece in pieces if piece.tally.pins is not None)
