"""The chart of a recording: where each area lies is reckoned again here from the figures."""

from __future__ import annotations

import re

import pytest
from unit.test_render_html import Read

from allocscope.model.history import History, Moment
from allocscope.model.ledger import LedgerKey, LedgerRow
from allocscope.render.html_series import HIGH, WIDE, series_section

MIB = 1 << 20
START = 1_790_000_000.0
HOSTILE = "<script>alert(1)</script>"


def moment(sample: int, at_s: float, rows: dict[LedgerKey, int], drift: int = 0) -> Moment:
    told = tuple(
        LedgerRow(key, key.upper(), mib * MIB, mib * MIB, 0, 0, (HOSTILE,))
        for key, mib in rows.items()
    )
    rss = sum(rows.values()) * MIB + drift
    return Moment(sample, START + at_s, rss, told, drift)


GROWS = History(
    (
        moment(1, 0, {"glibc-live": 100, "glibc-top": 1, "file-private": 20}),
        moment(2, 10, {"glibc-live": 20, "glibc-top": 1, "file-private": 20, "unexplained": 60}),
        moment(3, 40, {"glibc-live": 60, "glibc-top": 1, "file-private": 20}),
    ),
    sample_count=3,
    shown=2,
)


def read(history: History) -> Read:
    return Read(series_section(history).source)


def corners(points: str | None) -> list[tuple[float, float]]:
    assert points is not None
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in points.split())]


def test_an_area_is_as_high_as_its_row_and_stands_on_the_one_below() -> None:
    """121 MiB at most: steps of 20 would make more than six lines, so they are of 50."""
    found = read(GROWS)
    labels = [text for text in found.texts["span"] if not text.count(":")]
    assert labels == ["150 MiB", "100", "50", "0"]
    top = 150
    areas = {one["class"]: corners(one["points"]) for one in found.attributes("polygon")}
    assert list(areas) == ["glibc-live", "file-private", "unexplained", "other"]
    xs = [0, WIDE / 4, WIDE]
    below = [0, 0, 0]
    stacks = {
        "glibc-live": (100, 20, 60), "file-private": (20, 20, 20),
        "unexplained": (0, 60, 0), "other": (1, 1, 1),
    }  # fmt: skip
    for name, sizes in stacks.items():
        above = [low + size for low, size in zip(below, sizes, strict=True)]
        edge = [(x, HIGH - HIGH * size / top) for x, size in zip(xs, above, strict=True)]
        foot = [(x, HIGH - HIGH * size / top) for x, size in zip(xs, below, strict=True)]
        for place, wanted in zip(areas[name], [*edge, *reversed(foot)], strict=True):
            assert place == pytest.approx(wanted, abs=0.06)
        below = above
    [line] = found.attributes("polyline")
    assert [y for _, y in corners(line["points"])] == pytest.approx(
        [HIGH - HIGH * rss / top for rss in (121, 101, 81)], abs=0.06
    )


def test_every_sample_tells_its_figures_and_the_shown_one_is_marked() -> None:
    found = read(GROWS)
    tips = found.attributes("rect")
    edges = [(float(tip["x"] or ""), float(tip["width"] or "")) for tip in tips]
    assert edges == [(0, WIDE / 8), (WIDE / 8, WIDE / 2), (5 * WIDE / 8, 3 * WIDE / 8)]
    said = found.texts["title"][1]
    assert said.startswith("sample 2, 2026-")
    assert "RSS 101.0 MiB" in said
    assert "UNEXPLAINED 60.0 MiB" in said
    [mark] = found.attributes("line")
    assert float(mark["x1"] or "") == WIDE / 4
    assert "The dashed line is sample 2" in found.texts["p"][0]


def test_the_table_says_what_is_not_known() -> None:
    """A row that a sample does not have is not nought there."""
    found = read(GROWS)
    assert found.texts["th"] == [
        "sample", "when", "RSS", "GLIBC-LIVE", "GLIBC-TOP", "FILE-PRIVATE", "UNEXPLAINED",
    ]  # fmt: skip
    first = found.texts["td"][:7]
    assert [first[0], *first[2:]] == ["1", "121.0", "100.0", "1.0", "20.0", "?"]


def test_drift_is_told_where_there_is_some() -> None:
    history = History((*GROWS.moments, moment(4, 50, {"glibc-live": 10}, MIB)), 4, 4)
    found = read(history)
    assert found.texts["th"][-1] == "drift"
    assert found.texts["td"][-1] == "1.0"


def test_one_sample_has_no_chart() -> None:
    assert series_section(History(GROWS.moments[:1], 1, 1)).source == ""
    assert series_section(History((), 9, 9)).source == ""
    twice = (GROWS.moments[0], moment(2, 0, {"glibc-live": 1}))
    assert series_section(History(twice, 2, 2)).source == ""


def test_days_are_told_by_their_date_and_lost_samples_are_counted() -> None:
    long = History((GROWS.moments[0], moment(9, 200_000, {"glibc-live": 1})), 10, 9)
    found = read(long)
    assert found.texts["p"][0].startswith("2 samples of 10: ")
    times = [text for text in found.texts["span"] if ":" in text]
    assert all(re.fullmatch(r"\d\d-\d\d \d\d:\d\d", text) for text in times)
    assert len(times) == 5


def test_it_needs_neither_script_nor_inline_style_and_trusts_nobody() -> None:
    hostile = moment(4, 50, {"glibc-live": 10})
    row = LedgerRow("unexplained", HOSTILE, MIB, 90 * MIB, 0, 0, ())
    history = History((*GROWS.moments, Moment(4, START + 50, MIB, (*hostile.rows, row), 0)), 4, 4)
    found = read(history)
    assert "script" not in found.texts
    assert not any("style" in attributes for _, attributes in found.elements)
