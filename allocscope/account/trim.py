"""From a reading of the heap to the forecast of a trim, and from two looks at it to what went.

The rule itself is applied by the walk (probes/src/walk.c), which sees chunks and pages together;
here its tallies are summed by arena. Nothing is a remainder: what goes and what stays are counted
apart, and together they are the free resident bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from allocscope.glibc.pieces import Piece
from allocscope.glibc.reading import HeapReading
from allocscope.glibc.validate import ArenaReading
from allocscope.immutable import names_of
from allocscope.model.trim import ArenaForecast, ArenaReleased, Pace, Stays, TrimForecast

Span = tuple[int, int]
PAGE = 4096

VISIT_NS, MERGE_NS = 15, 70
COLD_VISIT_NS, COLD_MERGE_NS, COLD_KERNEL = 450, 150, 3
"""glibc's part for each chunk that it looks at or merges, where that is in the CPU's caches and
where it is not, and by how much the kernel's part grows there: around what the trims of
docs/trim-forecast.md took of their CPU."""


def forecast(reading: HeapReading, pad_bytes: int, pace: Pace) -> TrimForecast:
    """What malloc_trim(``pad_bytes``) would do; the reading was made for that pad."""
    tallies = [piece.tally for arena in reading.arenas for piece in arena.pieces]
    visits = sum(t.bin_count for t in tallies)
    merges = sum(t.fastbin_count for t in tallies)
    rows = tuple(_row(arena) for arena in reading.arenas)
    going = sum(row.bytes for row in rows)
    advised = sum(row.madvise_count for row in rows)
    lowered = sum(row.brk_count for row in rows)
    pages = going // PAGE
    kernel_ns = (advised + lowered) * pace.call_ns + pages * pace.page_ns
    return TrimForecast(
        pad_bytes=pad_bytes,
        bytes=going,
        page_count=pages,
        madvise_count=advised,
        brk_count=lowered,
        visit_count=visits,
        merge_count=merges,
        stays=_summed([row.stays for row in rows]),
        pace=pace,
        estimated_ns=kernel_ns + visits * pace.visit_ns + merges * pace.merge_ns,
        estimated_most_ns=kernel_ns * COLD_KERNEL + visits * COLD_VISIT_NS + merges * COLD_MERGE_NS,
        estimated_refault_ns=pages * pace.fault_ns,
        per_arena=rows,
    )


def _row(arena: ArenaReading) -> ArenaForecast:
    tallies = [piece.tally for piece in arena.pieces]
    lowered = sum(t.trim_break_bytes > 0 for t in tallies)
    return ArenaForecast(
        index=arena.index,
        address=arena.state.address,
        is_main=arena.index == 0,
        bytes=sum(t.trimmable_bytes for t in tallies),
        resident_bytes=sum(t.pages.resident_bytes for t in tallies),
        madvise_count=sum(t.trim_range_count for t in tallies) - lowered,
        brk_count=lowered,
        stays=Stays(
            top_bytes=sum(t.top_resident_bytes - t.top_trimmable_bytes for t in tallies),
            tcache_bytes=sum(t.tcache_resident_bytes for t in tallies),
            locked_bytes=sum(t.locked_trim_bytes for t in tallies),
            shared_page_bytes=sum(t.pinned_bytes for t in tallies),
        ),
    )


def _summed(parts: Sequence[Stays]) -> Stays:
    return Stays(**{name: sum(getattr(p, name) for p in parts) for name in names_of(Stays)})


# ---- what went ----


def extents(arena: ArenaReading) -> list[Span]:
    """The pages of an arena that may be resident, ascending, each once."""
    joined: list[Span] = []
    for start, end in sorted(map(_pages, arena.pieces)):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _pages(piece: Piece) -> Span:
    end = max(piece.end, piece.start + piece.mprotect_bytes)
    return piece.start // PAGE * PAGE, -(-end // PAGE) * PAGE


def resident(reading: HeapReading, resident_of: Callable[[int, int], int]) -> list[int]:
    """Resident bytes of each arena's pages now; ``resident_of`` tells them for ``[start, end)``."""
    return [sum(resident_of(*span) for span in extents(arena)) for arena in reading.arenas]


def released(
    rows: Sequence[ArenaForecast], before: Sequence[int], after: Sequence[int]
) -> tuple[ArenaReleased, ...]:
    """The fall of each arena's resident bytes, beside what was foretold."""
    return tuple(
        ArenaReleased(row.index, had - has, row.bytes, had - has - row.bytes)
        for row, had, has in zip(rows, before, after, strict=True)
    )
