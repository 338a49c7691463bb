"""What glibc malloc owns: the heaps of its arenas, and the mappings of large chunks.

The structure is the reading itself: a closed ring of arenas, heaps that name their arena, chunks
whose headers lead from one to the next up to top.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from allocscope.glibc.pieces import Piece
from allocscope.glibc.reading import HeapReading
from allocscope.model.owners import Claim

PAGE = 4096


def extents(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    """The memory that is an arena's because of each of its rows of chunks: with foreign memory
    between it and the row before, and what is left of its last page."""
    starts = [piece.start - piece.foreign_bytes for piece in pieces]
    found = []
    for piece, start in zip(pieces, starts, strict=True):
        end = max(piece.end, piece.start + piece.mprotect_bytes)
        end = -(-end // PAGE) * PAGE
        following = min((other for other in starts if other > start), default=end)
        found.append((start, min(end, following)))
    return found


def heap_claims(reading: HeapReading) -> Iterator[Claim]:
    """Claims for everything that the reading found, arenas first."""
    layout = reading.layout.name
    for arena in reading.arenas:
        main = arena.index == 0
        for piece, (start, end) in zip(arena.pieces, extents(arena.pieces), strict=True):
            if not main:
                end = max(end, piece.start + piece.reserved_bytes)
            yield Claim(
                start,
                end,
                "glibc-main-heap" if main else "glibc-thread-heap",
                "main heap" if main else f"heap of arena {arena.index}",
                f"chunks from {piece.start:#x} on lead to {piece.tally.stopped_at:#x}, in arena "
                f"{arena.state.address:#x} ({layout})",
            )
    for start, end in reading.mmapped:
        yield Claim(
            start,
            end,
            "glibc-mmapped",
            "chunk with a mapping of its own",
            "a chunk header with the mmapped bit, whose size is that of the mapping",
        )
