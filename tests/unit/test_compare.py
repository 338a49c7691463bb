"""lab/repro.compare: a truth that fits a report passes; any figure that is off by one fails, and
names itself."""

from __future__ import annotations

import dataclasses

import pytest
import reports

from allocscope.lab import repro
from allocscope.model.heap import ArenasData

OWN_COUNT, OWN_BYTES = 3, 864


def data() -> ArenasData:
    return reports.report().data


def truth() -> dict[str, int | None]:
    """What a fixture would say whose process gave `reports.report`."""
    totals, mmapped = data().totals, data().mmapped
    free = totals.fastbin_bytes + totals.bin_bytes + totals.top_bytes
    return {
        "live_count": totals.live_count - OWN_COUNT,
        "live_count_max": totals.live_count - OWN_COUNT,
        "live_usable_bytes": totals.live_bytes - OWN_BYTES - 8 * totals.live_count,
        "live_chunk_bytes": totals.live_bytes - OWN_BYTES,
        "glibc_own_count": OWN_COUNT,
        "glibc_own_bytes": OWN_BYTES,
        "tcache_count": totals.tcache_count,
        "tcache_bytes": totals.tcache_bytes,
        "fastbin_count": totals.fastbin_count,
        "fastbin_bytes": totals.fastbin_bytes,
        "free_bytes": free,
        "used_bytes": totals.system_bytes - free,
        "system_bytes": totals.system_bytes,
        "mmapped_count": mmapped.count,
        "mmapped_bytes": mmapped.bytes,
        "mmapped_written_bytes": mmapped.resident_bytes,
        "lazyfree_bytes": 0,
        "arena_count_min": 4,
        "arena_count_max": 4,
    }


def failing(figures: dict[str, int | None], found: ArenasData) -> set[str]:
    return {row.figure for row in repro.compare(figures, found) if not row.ok}


def test_a_truth_that_fits_passes() -> None:
    rows = list(repro.compare(truth(), data()))
    assert [row for row in rows if not row.ok] == []
    assert {row.relation for row in rows} == {"equal", "at-least", "at-most"}


@pytest.mark.parametrize(
    ("figure", "off_by", "named"),
    [
        ("live_count", 1, {"live_count"}),
        ("live_chunk_bytes", -16, {"live_bytes"}),
        ("glibc_own_count", 1, {"live_count"}),
        ("tcache_count", 1, {"tcache_count"}),
        ("tcache_bytes", 16, {"tcache_bytes"}),
        ("fastbin_count", -1, {"fastbin_count"}),
        ("fastbin_bytes", 32, {"fastbin_bytes"}),
        ("free_bytes", 16, {"free_bytes"}),
        ("used_bytes", -16, {"used_bytes"}),
        ("system_bytes", 4096, {"system_bytes"}),
        ("mmapped_count", 1, {"mmapped_count", "mp_n_mmaps_count"}),
        ("mmapped_bytes", 4096, {"mmapped_bytes", "mp_mmapped_bytes"}),
        ("mmapped_written_bytes", 1, {"mmapped_resident_bytes"}),
        ("lazyfree_bytes", 1 << 30, {"rss_bytes"}),
        ("live_count_max", -1, {"live_count"}),
        ("arena_count_min", 1, {"arena_count"}),
        ("arena_count_max", -1, {"arena_count"}),
    ],
)
def test_a_figure_that_is_off_fails_by_its_name(figure: str, off_by: int, named: set[str]) -> None:
    figures = truth()
    figures[figure] = int(figures[figure] or 0) + off_by
    assert failing(figures, data()) == named


def test_residue_fails_unless_the_arena_is_partial() -> None:
    arenas = list(data().arenas)
    figures = dataclasses.replace(arenas[1].figures, residue_bytes=-16)
    for consistency, named in (("validated", {"residue_bytes"}), ("partial", set())):
        arenas[1] = dataclasses.replace(arenas[1], figures=figures, consistency=consistency)
        changed = dataclasses.replace(data(), arenas=tuple(arenas))
        assert failing(truth(), changed) == named


def test_what_the_fixture_does_not_know_makes_no_row() -> None:
    figures = truth() | {"tcache_count": None, "glibc_own_count": None}
    names = {row.figure for row in repro.compare(figures, data())}
    assert "tcache_count" not in names
    assert "live_count" not in names
    assert "tcache_bytes" in names


def test_every_fixture_says_what_it_is() -> None:
    fixtures = repro.list_fixtures()
    assert {"scattered", "pinned-top", "healthy"} <= {info.name for info in fixtures}
    assert all(info.summary.endswith(".") and "\n" not in info.summary for info in fixtures)
