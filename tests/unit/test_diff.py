"""diff: which kind of growth it is, where it lies, and how it is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from unit import reports
from unit.reports import MIB, arena, figures

from allocscope.account import diff as account
from allocscope.model.diff import DiffData, Side
from allocscope.model.heap import Arena, ArenasData, Mmapped, SizeClass
from allocscope.model.process import Mapping, SmapsEntry
from allocscope.model.report import Caveat, Method, Report
from allocscope.render import diff as render
from allocscope.render.page import Look

GOLDEN = Path(__file__).parent / "golden"
NOISE = 1 << 20


def side(at: float, pid: int = 4711, file: str | None = "a.asrec") -> Side:
    return Side(file, 1, "recording", "quiescent", at, pid, 8_812_345, "ruby")


def data(
    arenas: list[Arena],
    mmapped: int = 0,
    classes: tuple[SizeClass, ...] = (),
    rss: int | None = None,
) -> ArenasData:
    report = reports.report(arenas)
    return dataclasses.replace(
        report.data,
        mmapped=Mmapped(bool(mmapped), mmapped, bool(mmapped), mmapped, mmapped),
        size_classes=classes,
        rss_bytes=report.data.totals.resident_bytes + mmapped if rss is None else rss,
    )


def compared(before: ArenasData, after: ArenasData, **changed: object) -> DiffData:
    later = dataclasses.replace(side(1_795_000_060.0), **changed)
    return account.diff(
        account.Reading(side(1_795_000_000.0), before, None),
        account.Reading(later, after, None),
    )


@pytest.mark.parametrize(
    ("live", "free", "rss", "kind"),
    [
        (5 * NOISE, 0, 5 * NOISE, "live"),
        (5 * NOISE, -3 * NOISE, 2 * NOISE, "live"),
        (8 * NOISE, 2 * NOISE, 10 * NOISE, "live"),
        (0, 5 * NOISE, 5 * NOISE, "retention"),
        (-5 * NOISE, 5 * NOISE, 0, "retention"),
        (2 * NOISE, 8 * NOISE, 10 * NOISE, "retention"),
        (3 * NOISE, 3 * NOISE, 6 * NOISE, "both"),
        (2 * NOISE, NOISE, 3 * NOISE, "both"),
        (0, 0, 5 * NOISE, "elsewhere"),
        (-5 * NOISE, -5 * NOISE, -10 * NOISE, "none"),
        (NOISE, NOISE, NOISE, "none"),
        (0, 0, 0, "none"),
    ],
)
def test_the_kind_of_growth(live: int, free: int, rss: int, kind: str) -> None:
    assert account.growth_kind(live, free, rss, NOISE) == kind


def test_live_growth_includes_chunks_with_mappings_of_their_own() -> None:
    before = data([arena(0, figures(live=30 * MIB, bins=MIB, top=MIB))])
    after = data([arena(0, figures(live=30 * MIB, bins=MIB, top=MIB))], mmapped=20 * MIB)
    found = compared(before, after)
    assert (found.growth, found.live_bytes.change) == ("live", 20 * MIB)
    assert found.totals.live_bytes.change == 0
    assert found.mmapped_bytes.change == 20 * MIB
    assert found.arenas == ()


def test_arenas_come_and_go_and_change_their_index() -> None:
    old = [
        arena(0, figures(live=30 * MIB, bins=0, top=MIB)),
        arena(1, figures(live=MIB, bins=0, top=0)),
    ]
    moved = dataclasses.replace(old[1], index=2)
    new = [old[0], arena(1, figures(live=9 * MIB, bins=0, top=0)), moved]
    new[1] = dataclasses.replace(new[1], address=0x7EEE_0000_0030)
    found = compared(data(old), data(new))
    assert [(row.index_before, row.index_after) for row in found.arenas] == [(None, 1)]
    assert found.arenas[0].growth.live_bytes.change == 9 * MIB
    back = compared(data(new), data(old))
    assert [(row.index_before, row.index_after) for row in back.arenas] == [(1, None)]
    other = compared(data(old), data(new), pid=5000)  # another process: the index must do
    assert not other.same_process
    assert {(row.index_before, row.index_after) for row in other.arenas} == {(1, 1), (None, 2)}


def test_size_classes_on_one_side_only() -> None:
    gone = SizeClass(32, 32, 10, 320, 1, 32, 2, 64, 3, 96, 1)
    same = SizeClass(48, 48, 10, 480, 0, 0, 0, 0, 0, 0, 1)
    new = SizeClass(1024, 1024, 4, 4096, 0, 0, 0, 0, 1, 1024, 5)
    rows = account.size_classes((gone, same), (same, new))
    assert [row.min_bytes for row in rows] == [1024, 32]
    assert rows[0].live_bytes == account.change(0, 4096)
    assert rows[1].free_bytes == account.change(192, 0)
    assert rows[1].free_count == account.change(6, 0)


def smaps(*rows: tuple[str, int, int]) -> tuple[SmapsEntry, ...]:
    """Path, inode, rss."""
    return tuple(
        SmapsEntry(
            Mapping(n << 20, (n + 1) << 20, "rw-p", 0, "00:00", inode, path),
            rss, 0, 0, 0, 0, 0, 0, 0,
        )
        for n, (path, inode, rss) in enumerate(rows, start=1)
    )  # fmt: skip


def test_mappings_are_grouped() -> None:
    heap = data([arena(0, figures(live=2 * MIB, bins=0, top=0, tcache=0, fastbin=0, header=-656))])
    held = heap.totals.resident_bytes
    old = smaps(("[heap]", 0, held), ("", 0, 4096), ("/lib/a.so", 5, 8192), ("/lib/a.so", 5, 4096))
    new = smaps(("[heap]", 0, held), ("", 0, 65536), ("/lib/a.so", 5, 8192), ("[stack]", 0, 4096))
    before = account.Reading(side(0), heap, old)
    rows = account.mappings(before, account.Reading(side(1), heap, new))
    assert [(row.group, row.resident_bytes.change) for row in rows] == [
        ("other anonymous memory", 61440),
        ("/lib/a.so", -4096),
        ("[stack]", 4096),
    ]
    more = dataclasses.replace(heap, rss_bytes=heap.rss_bytes + 999)
    coarse = account.mappings(before, account.Reading(side(1), more, None))
    assert [(row.group, row.resident_bytes.change) for row in coarse] == [("everything else", 999)]


# ---- how it is told ----


def leaking() -> Report[DiffData]:
    old = [
        arena(0, figures(live=30 * MIB, bins=9 * MIB, top=2 * MIB, pinned=4 * MIB)),
        arena(1, figures(live=21 * MIB, bins=50 * MIB, top=132_096, trimmable=42 * MIB)),
    ]
    new = [
        arena(0, figures(live=90 * MIB, bins=9 * MIB, top=MIB, pinned=4 * MIB)),
        arena(1, figures(live=33 * MIB, bins=58 * MIB, top=132_096, trimmable=42 * MIB)),
        arena(2, figures(live=MIB, bins=MIB, top=90_112)),
    ]
    classes = (SizeClass(96, 96, 400_000, 38_400_000, 100, 9_600, 0, 0, 100, 9_600, 9_990),)
    later = (
        SizeClass(96, 96, 1_000_000, 96_000_000, 100, 9_600, 0, 0, 100, 9_600, 9_990),
        SizeClass(4_096, 4_591, 3_000, 12_582_912, 0, 0, 0, 0, 2_000, 8_192_000, 800),
    )
    found = compared(data(old, classes=classes), data(new, MIB, classes=later), file=None)
    found = dataclasses.replace(found, after=dataclasses.replace(found.after, source="passive"))
    method = Method("passive", 0, 81_000_000, "quiescent")
    caveats = (Caveat("smaps-not-read", "before: smaps was not read."),)
    return Report(reports.process(), reports.LIBC, None, method, found, caveats)


@pytest.mark.parametrize("width", [80, 100])
def test_golden_page(width: int, request: pytest.FixtureRequest) -> None:
    page, golden = render.diff(leaking(), Look(width)), GOLDEN / f"diff-{width}.txt"
    assert max(map(len, page.splitlines())) <= width
    assert page == golden.read_text()


def test_the_headline_says_it_all() -> None:
    found = leaking().data
    assert render.headline(found).startswith("RSS +")
    assert "live +74.0 MiB" in render.headline(found)
    assert "a leak, if it goes on" in render.headline(found)
    assert "96 bytes +54.9 MiB (+600000 chunks)" in render.grown_classes(found)[0]


def test_rows_that_do_not_fit_are_counted() -> None:
    page = render.diff(leaking(), Look(80, rows=1))
    assert "… 2 more that changed less; --rows all shows them." in page


def test_nothing_changed_is_a_short_answer() -> None:
    same = data([arena(0, figures(live=30 * MIB, bins=MIB, top=MIB))])
    report = dataclasses.replace(leaking(), data=compared(same, same), caveats=())
    page = render.diff(report, Look(100))
    assert "nothing grew beyond the noise" in page
    assert "Changes by" not in page
