"""Runs a fixture, looks at it as a user would, and holds what is reported against what the fixture
says of itself.

Strategy: the truth is the fixture's own arithmetic and glibc's counters (fixtures/README.md); each
figure becomes one row with the relation in which allocscope's figure must stand to it. Most must be
equal. Residency is the kernel's, and a fixture only knows bounds of it: it wrote to all that it
holds, and free memory cannot exceed what is free.

Rules: how to look is a parameter, so that this module knows nothing of how heaps are read; a
figure that the fixture does not know makes no row; nothing is compared with a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from allocscope.lab import fixture
from allocscope.model.heap import ArenasData
from allocscope.model.report import Report
from allocscope.model.repro import FixtureInfo, Relation, ReproResult, ReproRow

Truth = Mapping[str, int | None]
Look = Callable[[int], Report[ArenasData]]
PARTIAL = "partial"


def list_fixtures() -> tuple[FixtureInfo, ...]:
    """Every fixture, in alphabetical order."""
    return tuple(FixtureInfo(name, fixture.summary(name)) for name in fixture.names())


def reproduce(
    name: str,
    look: Look,
    headline: Callable[[Report[ArenasData]], str],
    seed: int = 1,
    scale: float = 1.0,
    threads: int | None = None,
) -> ReproResult:
    """Runs the fixture ``name`` and has ``look`` look at its pid; ``headline`` puts a report into
    one sentence.

    Raises what `fixture.run` raises, and what ``look`` raises."""
    with fixture.run(name, seed, scale, threads) as running:
        report = look(running.pid)
    return ReproResult(
        fixture=name,
        seed=seed,
        headline=headline(report),
        rows=tuple(compare(running.truth, report.data)),
        report=report,
    )


def compare(truth: Truth, data: ArenasData) -> Iterator[ReproRow]:
    """One row for each figure that the fixture knows. Bytes of chunks are whole chunks."""
    for figure, relation, expected, found in _pairs(truth, data):
        if expected is not None:
            yield ReproRow(figure, relation, expected, found, _holds(relation, expected, found))


def _pairs(
    truth: Truth, data: ArenasData
) -> Iterator[tuple[str, Relation, int | None, int | None]]:
    totals, mmapped = data.totals, data.mmapped
    free = totals.fastbin_bytes + totals.bin_bytes + totals.top_bytes
    used = totals.live_bytes + totals.tcache_bytes + totals.overhead_bytes
    held = _plus(truth["live_usable_bytes"], truth["mmapped_written_bytes"])
    not_live = _plus(truth["free_bytes"], truth["tcache_bytes"])
    most_live = _plus(truth["live_count_max"], truth["glibc_own_count"])
    complete = [arena for arena in data.arenas if arena.consistency != PARTIAL]

    yield "arena_count", "at-least", truth["arena_count_min"], len(data.arenas)
    yield "arena_count", "at-most", truth["arena_count_max"], len(data.arenas)
    yield (
        "live_count",
        "equal",
        _plus(truth["live_count"], truth["glibc_own_count"]),
        totals.live_count,
    )
    yield "live_count", "at-most", most_live, totals.live_count
    yield (
        "live_bytes",
        "equal",
        _plus(truth["live_chunk_bytes"], truth["glibc_own_bytes"]),
        totals.live_bytes,
    )
    yield "tcache_count", "equal", truth["tcache_count"], totals.tcache_count
    yield "tcache_bytes", "equal", truth["tcache_bytes"], totals.tcache_bytes
    yield "fastbin_count", "equal", truth["fastbin_count"], totals.fastbin_count
    yield "fastbin_bytes", "equal", truth["fastbin_bytes"], totals.fastbin_bytes
    yield "free_bytes", "equal", truth["free_bytes"], free
    yield "used_bytes", "equal", truth["used_bytes"], used
    yield "system_bytes", "equal", truth["system_bytes"], totals.system_bytes
    yield "residue_bytes", "equal", 0, sum(abs(arena.figures.residue_bytes) for arena in complete)
    yield "mmapped_count", "equal", truth["mmapped_count"], mmapped.found_count
    yield "mmapped_bytes", "equal", truth["mmapped_bytes"], mmapped.found_bytes
    yield "mp_n_mmaps_count", "equal", truth["mmapped_count"], mmapped.count
    yield "mp_mmapped_bytes", "equal", truth["mmapped_bytes"], mmapped.bytes
    yield "rss_bytes", "at-least", _plus(held, truth["lazyfree_bytes"]), data.rss_bytes
    yield "resident_bytes", "at-least", truth["live_usable_bytes"], totals.resident_bytes
    yield (
        "mmapped_resident_bytes",
        "at-least",
        truth["mmapped_written_bytes"],
        mmapped.resident_bytes,
    )
    yield "free_resident_bytes", "at-most", not_live, totals.free_resident_bytes
    yield "trimmable_bytes", "at-most", truth["free_bytes"], totals.trimmable_bytes
    yield "pinned_bytes", "at-most", truth["free_bytes"], totals.pinned_bytes


def _plus(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _holds(relation: Relation, truth: int, found: int | None) -> bool:
    if found is None:
        return False
    if relation == "equal":
        return found == truth
    return found >= truth if relation == "at-least" else found <= truth
