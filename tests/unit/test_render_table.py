"""render/table: the looks, against golden pages, and the rules that no page may break.

After an intended change: ALLOCSCOPE_GOLDEN=write pytest tests/unit/test_render_table.py, then read
the diff.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest
import reports
from reports import MIB

from allocscope.model.failure import Failure
from allocscope.model.heap import ArenasData, Setting, SizeClass
from allocscope.model.libc import Allocator
from allocscope.model.report import Caveat, Method, Report
from allocscope.render.page import Look
from allocscope.render.table import arenas

GOLDEN = Path(__file__).parent / "golden"


def changed(report: Report[ArenasData], **data: object) -> Report[ArenasData]:
    return dataclasses.replace(report, data=dataclasses.replace(report.data, **data))  # type: ignore[arg-type]


def busy() -> Report[ArenasData]:
    """Sixty-four arenas, one of them not validated, and glibc of another opinion."""
    many = [
        reports.arena(
            index,
            reports.figures(
                live=(70 - index) * MIB,
                bins=index * 3 * MIB,
                top=132_096,
                pinned=index * MIB // 4,
                trimmable=index * 2 * MIB,
            ),
            threads=index % 4,
            consistency="partial" if index == 60 else "validated",
        )
        for index in range(64)
    ]
    report = changed(reports.report(many), glibc_says=reports.glibc_says(agrees=False))
    caveat = Caveat("arena-busy", "Arena 60 changed while it was read.", partial=True)
    return dataclasses.replace(
        report,
        method=Method("snapshot", 1_900_000, 412_000_000, "frozen"),
        caveats=(*report.caveats, caveat),
    )


def several() -> list[Report[ArenasData] | Failure]:
    gone = Failure(4712, "ev\x1b[2Jil", "process 4712 went away", "", 3)
    return [reports.report(), gone, reports.report(pid=99, comm="[red]x[/]\x1b]0;t\x07")]


PAGES = {
    "arenas-80": ([reports.report()], Look(width=80)),
    "arenas-100": ([reports.report()], Look(width=100)),
    "arenas-120": ([reports.report()], Look(width=120)),
    "arenas-bytes-100": ([reports.report()], Look(width=100, exact_bytes=True)),
    "busy-80": ([busy()], Look(width=80)),
    "busy-100": ([busy()], Look(width=100)),
    "heaps-100": ([reports.report()], Look(width=100, by="heap", rows=4)),
    "heaps-80": ([reports.report()], Look(width=80, by="heap", rows=4)),
    "sizes-80": ([reports.report()], Look(width=80, by="size")),
    "threads-80": ([reports.report()], Look(width=80, by="thread")),
    "several-80": (several(), Look(width=80)),
}


@pytest.mark.parametrize("name", PAGES)
def test_golden_page(name: str) -> None:
    outcomes, look = PAGES[name]
    page, golden = arenas(outcomes, look), GOLDEN / f"{name}.txt"
    if os.environ.get("ALLOCSCOPE_GOLDEN") == "write":
        golden.write_text(page)
    assert page == golden.read_text()


@pytest.mark.parametrize("name", PAGES)
def test_no_line_exceeds_the_page(name: str) -> None:
    outcomes, look = PAGES[name]
    assert max(map(len, arenas(outcomes, look).splitlines())) <= look.width


@pytest.mark.parametrize("width", [20, 40, 80, 100, 200])
def test_numbers_are_neither_cut_nor_wrapped(width: int) -> None:
    page = arenas([reports.report()], Look(width=width, exact_bytes=True))
    table = page[page.index("\narena ") :].splitlines()
    totals = reports.report().data.totals
    foot = next(line for line in table if line.startswith("all "))
    for number in (totals.resident_bytes, totals.free_resident_bytes, totals.trimmable_bytes):
        assert str(number) in foot.split()


def test_the_headline_comes_first_and_says_the_four_figures() -> None:
    page = arenas([reports.report()], Look(width=200))
    assert page.splitlines()[0] == (
        "RSS 392.4 MiB, of which glibc holds 378.4 MiB; 279.4 MiB of that is free but resident, "
        "and malloc_trim(0) would release 265.0 MiB now."
    )


def test_the_headline_names_another_allocator() -> None:
    report = dataclasses.replace(reports.report(), allocator=Allocator("jemalloc", ("jemalloc",)))
    first, second = arenas([report], Look(width=200)).splitlines()[:2]
    assert first.endswith("here jemalloc serves malloc, not glibc.")
    assert second.endswith("malloc served by jemalloc")


def test_the_headline_without_anything_to_trim() -> None:
    own = reports.figures(live=MIB, bins=0, top=132_096)
    page = arenas([reports.report([reports.arena(0, own)])], Look(width=200))
    assert "malloc_trim(0) would release none of it." in page.splitlines()[0]
    none = dataclasses.replace(own, free_resident_bytes=0)
    page = arenas([reports.report([reports.arena(0, none)])], Look(width=200))
    assert page.splitlines()[0].endswith("; nothing of that is free.")


def test_folded_rows_keep_the_sum() -> None:
    page = arenas([busy()], Look(width=200, rows=10))
    cells = [re.split(r"\s{2,}", line) for line in page.splitlines()]
    titles = next(row for row in cells if row[0] == "arena")
    column = titles.index("resident")
    own = [row for row in cells if len(row) == len(titles) and row[0][0].isdecimal()]
    folded = next(row for row in cells if row[0] == "… 54 more")
    total = next(row for row in cells if row[0] == "all")
    assert len(own) == 10
    summed = sum(float(row[column]) for row in [*own, folded])
    assert summed == pytest.approx(float(total[column]), abs=0.05 * 11)


def test_one_arena_too_many_gets_its_own_row() -> None:
    page = arenas([reports.report()], Look(width=100, rows=3))
    assert "more" not in page


def test_what_could_not_be_read_has_a_column_even_on_a_narrow_page() -> None:
    own = dataclasses.replace(
        reports.figures(live=9 * MIB, bins=MIB, top=MIB), unread_bytes=4096, residue_bytes=-16
    )
    page = arenas([reports.report([reports.arena(0, own)])], Look(width=80, exact_bytes=True))
    titles = next(line for line in page.splitlines() if line.startswith("arena"))
    assert titles.split()[-2:] == ["unread", "residue"]
    assert next(line for line in page.splitlines() if line.startswith("all")).endswith(" -16")


def test_sums_of_unknown_parts_are_unknown() -> None:
    parts = [reports.arena(i, reports.figures(live=MIB, bins=0, top=0), threads=None if i else 1)
             for i in range(2)]  # fmt: skip
    page = arenas([reports.report(parts)], Look(width=100))
    assert re.search(r"^all +\? +2 ", page, re.MULTILINE)


def test_size_classes_ascend_and_keep_the_heaviest() -> None:
    classes = tuple(
        SizeClass(size, size, 1, size, 0, 0, 0, 0, 0, 0, 1) for size in (64, 32, 4096, 1024, 48)
    )
    page = arenas(
        [changed(reports.report(), size_classes=classes)], Look(width=100, by="size", rows=2)
    )
    names = re.findall(r"^(\d+|… \d+ more) ", page, re.MULTILINE)
    assert names == ["1024", "4096", "… 3 more"]


def test_a_setting_without_effect_is_not_lost_among_the_defaults() -> None:
    evidence = "the start environment asks for 2: without effect"
    futile = Setting(0, "default", evidence, without_effect=True)
    settings = dataclasses.replace(reports.SETTINGS, arena_max=futile)
    page = arenas([changed(reports.report(), settings=settings)], Look(width=100))
    assert re.search(rf"^  arena_max +unset +default: {evidence}$", page, re.MULTILINE)


def test_hostile_strings_cannot_steer_the_terminal() -> None:
    report = reports.report(comm="a\x1b[31mb\x9bc\r\n\u202e[bold]")
    for colour in (False, True):
        page = arenas([report, report], Look(width=100, colour=colour))
        visible = re.sub(r"\x1b\[[0-9;]*m", "", page)
        assert "\x1b" not in visible
        assert not set(visible) & {"\r", "\x9b", "\u202e"}
        assert "a\\x1b[31mb\\x9bc\\x0d\\x0a\\u202e[bold]" in visible


def test_colours_only_when_asked_for_and_change_nothing_else() -> None:
    plain = arenas([busy()], Look(width=100))
    coloured = arenas([busy()], Look(width=100, colour=True))
    assert "\x1b" not in plain
    assert "\x1b[1m" in coloured
    without = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in without.splitlines()] == plain.splitlines()


def test_how_it_was_obtained_is_the_last_line() -> None:
    page = arenas([reports.report()], Look())
    assert page.splitlines()[-1] == ("passive, 81 ms, target never stopped; consistency: quiescent")
    assert arenas([busy()], Look()).splitlines()[-1] == (
        "snapshot, 412 ms, target paused 1.9 ms; consistency: frozen"
    )
