"""Watching: the rule that says when to walk, the series, the sparkline, and what is printed."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from unit import reports
from unit.situations import MIB

from allocscope.account import watch as account
from allocscope.account.ledger import LABELS, NOT_RECORDED
from allocscope.account.watch import Series, Walked, point, walk_is_due
from allocscope.model.ledger import CauseKey, LedgerKey
from allocscope.model.report import Report
from allocscope.model.watch import (
    ArenaGlance,
    End,
    EndKey,
    Glance,
    MallocGlance,
    Sample,
    Walk,
    WalkArena,
    WalkRow,
)
from allocscope.render.page import Look
from allocscope.render.sparkline import ASCII, BLOCKS, sparkline
from allocscope.render.watch import Screen, end, line, screen

SECOND = 10**9
KEYS = [key for key in LABELS if key != NOT_RECORDED]
ROWS = {"glibc-live": 40, "glibc-top": 3, "glibc-free-shared-pages": 50, "file-private": 5}


def glance(
    rss: int | None = 100, arenas: tuple[int, ...] = (90,), crc: int = 0, **more: Any
) -> Glance:
    """Sizes in MiB; one arena for each of ``arenas``, all with the same ``crc``."""
    rows = tuple(
        ArenaGlance(i, 0x1000 * (i + 1), 1, mib * MIB, 2 * MIB, crc) for i, mib in enumerate(arenas)
    )
    malloc = MallocGlance(rows, sum(arenas) * MIB, 0, 0)
    rss_bytes = None if rss is None else rss * MIB
    known = {"peak_rss_bytes": rss_bytes, "swap_bytes": 0, "page_table_bytes": 0}
    return Glance(**{"rss_bytes": rss_bytes, "thread_count": 3, "malloc": malloc, **known, **more})


def walk(sample: int = 1, **mib: int) -> Walk:
    """``glibc_live=3`` is that row with 3 MiB."""
    sizes = {**ROWS, **{name.replace("_", "-"): size for name, size in mib.items()}}
    rows = tuple(WalkRow(key, LABELS[key], sizes.get(key, 0) * MIB, 0, 0) for key in KEYS)
    arenas = (WalkArena(0, 0x1000, 90 * MIB, 40 * MIB, 50 * MIB, MIB),)
    return Walk(sample, 100 * MIB, rows, 0, arenas, "scattered-live", "It holds too much.")


def sample(
    number: int = 1, seen: Glance | None = None, of: Walk | None = None, moved: int = 0
) -> Sample:
    made = of or walk(number)
    fresh = made.sample == number
    age_s = 0.0 if fresh else 5.0 * (number - made.sample)
    return Sample(number, 5.0 * number, seen or glance(), fresh, made, age_s, moved * MIB, 10**6)


def report(data: Any) -> Report[Any]:
    made = reports.report()
    return Report(made.process, made.libc, made.allocator, made.method, data, ())


# ---- the rule ----


def walked(cpu_s: float = 0.1, seen: Glance | None = None) -> Walked:
    """Sample 1 walked, and was over at 0 s."""
    last = seen or glance()
    made = replace(walk(1), rss_bytes=last.rss_bytes)
    return Walked(made, last, 0, int(cpu_s * SECOND))


def test_the_first_sample_walks() -> None:
    assert walk_is_due(None, glance(), 1, 0)


def test_a_calm_process_is_walked_every_twelfth_sample() -> None:
    due = [walk_is_due(walked(), glance(), number, number * 60 * SECOND) for number in range(2, 15)]
    assert due == [False] * 11 + [True] * 2


@pytest.mark.parametrize(("mib", "due"), [(0, False), (9, False), (10, True), (50, True)])
def test_a_hundredth_of_rss_is_enough_to_walk(mib: int, due: bool) -> None:
    last = walked(seen=glance(1000))
    for moved in (1000 + mib, 1000 - mib):
        assert walk_is_due(last, glance(moved), 2, 60 * SECOND) == due


def test_in_a_small_process_a_mebibyte_is_needed() -> None:
    last = walked(seen=glance(10))
    little = replace(glance(), rss_bytes=10 * MIB + MIB - 1)
    assert not walk_is_due(last, little, 2, 60 * SECOND)
    assert walk_is_due(last, glance(11), 2, 60 * SECOND)


def test_an_arena_that_was_used_is_enough_to_walk() -> None:
    for seen in (glance(crc=1), glance(arenas=(90, 0))):
        assert walk_is_due(walked(), seen, 2, 60 * SECOND)
        assert not walk_is_due(walked(), seen, 2, 7 * SECOND)
    assert not walk_is_due(walked(), glance(malloc=None), 2, 60 * SECOND)


@given(
    cpu_s=st.floats(0.001, 20),
    every_s=st.floats(0.1, 60),
    rss=st.lists(st.integers(1, 5000), min_size=2, max_size=300),
)
def test_walks_never_cost_more_than_their_share(
    cpu_s: float, every_s: float, rss: list[int]
) -> None:
    """Whatever the process does: between the ends of two walks lies as much time as it takes."""
    last: Walked | None = None
    for number, mib in enumerate(rss, start=1):
        now_ns = int(number * every_s * SECOND)
        if walk_is_due(last, glance(mib), number, now_ns):
            if last is not None:
                passed_ns = now_ns - last.ended_ns
                assert last.cpu_ns <= account.WALK_SHARE * passed_ns + 1
            cpu_ns = int(cpu_s * SECOND)
            last = Walked(walk(number), glance(mib), now_ns, cpu_ns)


@pytest.mark.parametrize(
    ("now", "mib"),
    [
        (glance(), 0),
        (glance(107), 7),
        (glance(93), 7),
        (glance(swap_bytes=3 * MIB), 3),
        (glance(arenas=(95,)), 5),
        (glance(arenas=(90, 4)), 4),
        (glance(arenas=()), 90),
        (glance(malloc=MallocGlance(glance().malloc.arenas, 90 * MIB, 1, 8 * MIB)), 8),
        (glance(None), 0),
        (glance(malloc=None), 0),
    ],
)
def test_how_far_a_glance_has_moved(now: Glance, mib: int) -> None:
    assert account.moved_bytes(glance(), now) == mib * MIB


def test_what_one_arena_gains_does_not_hide_what_another_loses() -> None:
    before, now = glance(arenas=(50, 50)), glance(arenas=(60, 40))
    assert account.moved_bytes(before, now) == 20 * MIB


# ---- series and sparklines ----


def test_a_series_keeps_the_last_points_and_its_beginning() -> None:
    series = Series(3)
    for number in range(1, 6):
        series.add(point(sample(number, glance(100 + number), walk(number, glibc_live=number))))
    assert series.of(account.rss) == tuple((100 + n) * MIB for n in (3, 4, 5))
    assert series.of(account.rss, 2) == tuple((100 + n) * MIB for n in (4, 5))
    assert series.of(account.row("glibc-live"), 1) == (5 * MIB,)
    assert series.change(account.rss) == 4 * MIB


def test_an_arena_is_nothing_before_it_is_made_and_unknown_where_nothing_tells() -> None:
    series = Series(10)
    for seen in (glance(), glance(malloc=None), glance(arenas=(90, 4))):
        series.add(point(sample(1, seen)))
    assert series.of(account.system(0x2000)) == (0, None, 4 * MIB)
    assert series.change(account.system(0x2000)) == 4 * MIB


def test_a_change_from_or_to_what_is_unknown_is_unknown() -> None:
    series = Series(10)
    for rss in (None, 5):
        series.add(point(sample(1, glance(rss))))
    assert series.change(account.rss) is None


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ((), ""),
        ((0, 0), "▁▁"),
        ((7,), "▁"),
        ((0, 7), "▁█"),
        (tuple(range(8)), BLOCKS),
        ((1000, 1001, 1000), "▁▁▁"),
        ((1000, None, 2000), "▁ █"),
        ((None,), " "),
    ],
)
def test_a_sparkline(values: tuple[int | None, ...], drawn: str) -> None:
    assert sparkline(values) == drawn


def test_a_sparkline_for_plain_terminals() -> None:
    assert sparkline(tuple(range(8)), ASCII).isascii()


@given(st.lists(st.none() | st.integers(0, 1 << 50), max_size=60))
def test_a_sparkline_has_a_bar_for_each_value_and_keeps_their_order(
    values: list[int | None],
) -> None:
    drawn = sparkline(values)
    assert len(drawn) == len(values)
    bars = [(value, bar) for value, bar in zip(values, drawn, strict=True) if value is not None]
    assert [bar for _, bar in sorted(bars)] == sorted(bar for _, bar in bars)
    assert drawn.count(" ") == values.count(None)


# ---- what is printed ----


@pytest.mark.parametrize(
    ("definition", "name", "keys"),
    [("walk_row", "key", LedgerKey), ("walk", "cause", CauseKey), ("end", "reason", EndKey)],
)
def test_the_schema_knows_every_key(definition: str, name: str, keys: Any) -> None:
    path = Path(__file__).resolve().parents[2] / "docs" / "schema" / "watch.schema.json"
    schema = json.loads(path.read_text())["$defs"]
    assert schema[definition]["properties"][name]["enum"] == list(get_args(keys))


def test_a_line_says_when_the_ledger_was_walked() -> None:
    fresh = line(report(sample()), 0, 0.0)
    assert "RSS 100.0 MiB (+0 bytes)" in fresh
    assert fresh.endswith("live 40.0 MiB, free 53.0 MiB (walked now)")
    stale = line(report(sample(3, of=walk(1), moved=4)), 4 * MIB, 0.0)
    assert "(+4.0 MiB)" in stale
    assert stale.endswith("(walked 10 s ago, 4.0 MiB moved since)")


def test_the_last_line_is_harmless_whatever_the_process_is_called() -> None:
    told = end(report(End("ended", "process 7 (\x1b[2J) has ended", 3, 15.0)))
    assert told == "process 7 (\\x1b[2J) has ended: 3 samples in 15 s."


def drawn(columns: int = 100, lines: int = 40, arenas: int = 3, **how: Any) -> list[str]:
    series = Series(240)
    for number in range(1, 61):
        mib = tuple(range(90, 90 + arenas * number, number))
        latest = sample(number, glance(100 + number, mib), walk(number))
        series.add(point(latest))
    text = screen(report(latest), series, Look(columns), Screen(lines, **how))
    return text.split("\n")


@pytest.mark.parametrize("columns", [80, 100, 160])
@pytest.mark.parametrize(("lines", "arenas"), [(24, 3), (40, 3), (40, 500), (12, 3)])
def test_a_screen_fits_the_terminal(columns: int, lines: int, arenas: int) -> None:
    shown = drawn(columns, lines, arenas)
    assert len(shown) == lines
    assert max(map(cell_len, shown)) <= columns
    assert shown[-1] == "q quits, s sorts · rows in their usual order"


def test_arenas_that_do_not_fit_are_counted() -> None:
    heading = next(text for text in drawn(lines=40, arenas=500) if text.startswith("Arenas"))
    assert " of 500)" in heading


def test_rows_that_do_not_fit_are_one_row() -> None:
    series, many = Series(9), sample(of=walk(1, **{k.replace("-", "_"): 1 for k in KEYS}))
    series.add(point(many))
    shown = screen(report(many), series, Look(100), Screen(24)).split("\n")
    [folded] = [text for text in shown if "smaller rows" in text]
    count = int(folded.split()[0])
    assert float(folded.split()[3]) == count
    assert sum(LABELS[key] in text for key in KEYS for text in shown) == 18 - count


def test_rows_are_sorted_as_asked_for() -> None:
    first_rows = {
        order: next(after for at, after in itertools.pairwise(rows) if "──" in at)
        for order in ("usual", "size")
        for rows in [drawn(order=order)]
    }
    assert first_rows["usual"].startswith("malloc, live")
    assert first_rows["size"].startswith("malloc, free, page shared")
    arenas = [text for text in drawn(order="change") if text[:2] in ("0 ", "1 ", "2 ")]
    assert [text[0] for text in arenas] == ["2", "1", "0"]


def test_a_screen_without_arenas_says_why() -> None:
    series, moving = Series(9), sample(seen=glance(malloc=None))
    series.add(point(moving))
    shown = screen(report(moving), series, Look(80), Screen(24))
    assert "The arenas changed while this sample was taken." in shown
    assert "malloc ?" in shown


@pytest.mark.parametrize(
    ("before", "now", "rate"),
    [(10, 40, 12.0), (10, 10, 0.0), (None, 40, None), (10, None, None), (40, 10, None)],
)
def test_refaults_per_second_are_those_of_one_group(
    before: int | None, now: int | None, rate: float | None
) -> None:
    """A count that is less is of another group, into which the process was moved."""
    seen = (glance(refault_count=before), glance(refault_count=now))
    assert account.refaults_per_s(*seen, 2.5) == rate
    assert account.refaults_per_s(*seen, 0.0) is None


def test_refaults_are_told_where_there_are_any() -> None:
    for rate, told in ((None, ""), (0.0, ""), (0.4, ""), (312.4, "312 refaults/s in its cgroup")):
        data = replace(sample(), refaults_per_s=rate)
        shown = line(report(data), None, 0.0)
        assert (told in shown) if told else ("refault" not in shown)
        series = Series(10)
        series.add(point(data))
        whole = screen(report(data), series, Look(width=80), Screen(height=24))
        assert (told in whole) if told else ("refault" not in whole)
