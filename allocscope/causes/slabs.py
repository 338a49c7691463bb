"""Slabs that fill one after the other and are never given back: the pattern of an allocator, or of
a program, that only grows."""

from __future__ import annotations

from allocscope.account.mapview import map_rows
from allocscope.causes.finding import Finding, of_row
from allocscope.causes.remedies import advice
from allocscope.model.ledger import LedgerKey
from allocscope.model.mapview import MapRow
from allocscope.model.situation import Situation
from allocscope.units import plural, size

ROWS: tuple[LedgerKey, ...] = ("unexplained", "other-allocator", "runtime-heap")
FEWEST = 8
LEAST_BYTES = 64 << 10
FULL_RATIO = 0.95


def slab_growth(situation: Situation) -> Finding | None:
    """Many slabs of equal size of which the older half is full."""
    possible = [holding for holding in situation.holdings if holding.row in ROWS]
    runs = [row for row in map_rows(possible) if _grows(row)]
    if not runs:
        return None
    runs.sort(key=lambda row: -(row.sizes.resident_bytes or 0))
    total = sum(row.sizes.resident_bytes or 0 for row in runs)
    return Finding(
        key="slab-growth",
        title="Slabs of equal size that were filled one after the other and are all still there",
        bytes=total,
        takes=tuple(
            cell
            for row in runs
            for cell in of_row(row.key, row.sizes.resident_bytes or 0)  # type: ignore[arg-type]
        ),
        confidence="hint",
        headline=f"{size(total)} are slabs of equal size, filled one after the other and all kept",
        evidence=tuple(_told(row) for row in runs),
        remedies=(
            advice(
                "watch-the-slabs",
                "compare two readings: `allocscope map PID` now and later; if the number of slabs "
                "only rises, find what allocates this size and never frees it",
                "a look at the program",
            ),
        ),
    )


def _grows(row: MapRow) -> bool:
    fill, each = row.fill, row.slab_bytes
    if fill is None or each is None or each < LEAST_BYTES or row.part_count < FEWEST:
        return False
    older = fill.ratios[: len(fill.ratios) // 2]
    return min(older) >= FULL_RATIO


def _told(row: MapRow) -> str:
    assert row.slab_bytes is not None and row.fill is not None
    return (
        f"{plural(row.part_count, 'slab')} of {size(row.slab_bytes)} ({row.owner}), "
        f"{row.fill.full_count} of them full; the newest eighth is "
        f"{100 * row.fill.ratios[-1]:.0f} % full"
    )
