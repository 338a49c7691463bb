"""Hand-made answers of ``trim`` for the tests of account, render and cli."""

from __future__ import annotations

import dataclasses

import reports

from allocscope.model.report import Method, Report
from allocscope.model.trim import (
    Applied,
    ArenaForecast,
    ArenaReleased,
    Pace,
    Refaults,
    Rehearsed,
    Stays,
    TrimData,
    TrimForecast,
)

MIB = 1 << 20
PAGE = 4096
PACE = Pace(call_ns=1500, page_ns=240, fault_ns=1800, visit_ns=15, merge_ns=70)


def forecast(*going: int, locked: int = 0) -> TrimForecast:
    """One arena for each of ``going``, bytes; the main one also lowers the break."""
    stays = Stays(
        top_bytes=40_000, tcache_bytes=MIB, locked_bytes=locked, shared_page_bytes=3 * MIB
    )
    rows = tuple(
        ArenaForecast(
            index=index,
            address=0x7F0000000030 + (index << 26),
            is_main=not index,
            bytes=bytes_,
            resident_bytes=bytes_ + 6 * MIB,
            madvise_count=150 if bytes_ else 0,
            brk_count=int(not index),
            stays=stays,
        )
        for index, bytes_ in enumerate(going)
    )
    count = len(rows)
    return TrimForecast(
        pad_bytes=0,
        bytes=sum(going),
        page_count=sum(going) // PAGE,
        madvise_count=sum(row.madvise_count for row in rows),
        brk_count=1,
        visit_count=58_130,
        merge_count=60_265,
        stays=Stays(40_000 * count, MIB * count, locked * count, 3 * MIB * count),
        pace=PACE,
        estimated_ns=9_300_000,
        estimated_most_ns=47_800_000,
        estimated_refault_ns=5_200_000,
        per_arena=rows,
    )


def report(
    *going: int, locked: int = 0, rehearsed: bool = False, applied_error: int | None = None
) -> Report[TrimData]:
    """The answer of ``trim``; ``rehearsed``: also run in a copy, without error; ``applied_error``:
    also applied, with an error of so many bytes in the first arena."""
    made = forecast(*going, locked=locked)
    stays = made.stays
    free = stays.top_bytes + stays.tcache_bytes + stays.locked_bytes + stays.shared_page_bytes
    data = TrimData(
        rss_bytes=made.bytes + 20 * MIB,
        resident_bytes=sum(row.resident_bytes for row in made.per_arena),
        free_resident_bytes=made.bytes + free,
        forecast=made,
        rehearsed=None,
        applied=None,
        error_bytes=None,
    )
    base = reports.report()
    method = base.method
    if rehearsed:
        rows = released(made, 0)
        run = Rehearsed(made.bytes, rows, 63_000_000, 2_600_000, 1, 2)
        data = dataclasses.replace(data, rehearsed=run, error_bytes=0)
        method = Method("snapshot", 2_600_000, 254_000_000, "frozen")
    if applied_error is not None:
        rows = released(made, applied_error)
        total = sum(row.released_bytes for row in rows)
        back = Refaults(5_000_000_000, 812, 3 * MIB)
        done = Applied(total, rows, 4713, 28_000_000, 300_000, 1, 20 * MIB, back)
        data = dataclasses.replace(data, applied=done, error_bytes=applied_error)
        method = Method("live", 300_000, 5_600_000_000, "quiescent")
    return Report(base.process, base.libc, base.allocator, method, data, ())


def released(made: TrimForecast, error_bytes: int) -> tuple[ArenaReleased, ...]:
    return tuple(
        ArenaReleased(row.index, row.bytes + error, row.bytes, error)
        for row in made.per_arena
        for error in (0 if row.index else error_bytes,)
    )
