"""A recording over time, for the HTML page: the ledger's rows as areas on top of each other, with
RSS as a line above them.

Strategy: the areas are an SVG that is stretched to the width of the page, so that it needs neither
a script nor to know that width; its labels are text beside it, which is not stretched. Hovering
over a sample tells its figures, and a table has them for everybody else. Rules: time runs as it
did, not from sample to sample; rows that are small throughout are one area; the table has all.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from allocscope.immutable import immutable
from allocscope.model.history import History, Moment
from allocscope.model.ledger import LedgerKey
from allocscope.render.markup import NOTHING, Cell, Heading, Html, join, table, tag
from allocscope.render.text import Unit, plural, size, unit_for

WIDE, HIGH = 1000, 400
SMALL_RATIO = 0.02
FEWEST_MOMENTS = 2
TIME_MARKS = 4
MOST_STEPS = 6
_DAY_S = 86400


@immutable
class _Band:
    """An area: one row, or the small ones together, with its bytes at each moment."""

    name: str
    label: str
    sizes: tuple[int, ...]


@immutable
class _Frame:
    """Where a time and a size lie in the picture."""

    start_s: float
    span_s: float
    most_bytes: int

    def x(self, at_s: float) -> float:
        return WIDE * (at_s - self.start_s) / self.span_s

    def y(self, amount: int) -> float:
        return HIGH - HIGH * amount / self.most_bytes


def series_section(history: History) -> Html:
    """The chart with its legend and its table; nothing for a single sample."""
    moments = sorted(history.moments, key=lambda moment: moment.captured_at_s)
    if len(moments) < FEWEST_MOMENTS or moments[0].captured_at_s == moments[-1].captured_at_s:
        return NOTHING
    bands = _bands(moments)
    unit = unit_for(max(moment.rss_bytes for moment in moments), False)
    step, steps = _scale(_highest(moments, bands), unit)
    start_s = moments[0].captured_at_s
    frame = _Frame(start_s, moments[-1].captured_at_s - start_s, step * steps)
    return tag(
        "section",
        tag("h2", "RSS over time"),
        tag("p", _introduction(history, moments)),
        tag(
            "figure",
            _amounts(step, steps, unit),
            _picture(history, moments, bands, frame),
            _times(frame),
            class_="series",
        ),
        _legend(bands),
        tag("details", tag("summary", "The chart as a table"), _table(moments, unit)),
    )


def _introduction(history: History, moments: Sequence[Moment]) -> str:
    some = f"{plural(len(moments), 'sample')}"
    if len(moments) < history.sample_count:
        some += f" of {history.sample_count}"
    first, last = moments[0].rss_bytes, moments[-1].rss_bytes
    most = max(moments, key=lambda moment: moment.rss_bytes)
    return (
        f"{some}: RSS was {size(first)} in the first, {size(last)} in the last, and at most "
        f"{size(most.rss_bytes)}, in sample {most.sample}. The dashed line is sample "
        f"{history.shown}, of which everything else on this page tells."
    )


# ---- what is drawn ----


def _bands(moments: Sequence[Moment]) -> list[_Band]:
    """The rows in the ledger's order; those that never matter together, at the end."""
    labels: dict[LedgerKey, str] = {
        row.key: row.label for moment in moments for row in moment.rows if row.resident_bytes
    }
    order = [row.key for moment in moments for row in moment.rows]
    keys = sorted(labels, key=order.index)
    all_sizes = {key: tuple(_of(moment, key) or 0 for moment in moments) for key in keys}
    least = SMALL_RATIO * max(moment.rss_bytes for moment in moments)
    large = [key for key in keys if max(all_sizes[key]) >= least]
    bands = [_Band(key, labels[key], all_sizes[key]) for key in large]
    small = [all_sizes[key] for key in keys if key not in large]
    if small:
        sums = tuple(sum(sizes) for sizes in zip(*small, strict=True))
        bands.append(_Band("other", f"{plural(len(small), 'smaller row')}", sums))
    return bands


def _of(moment: Moment, key: LedgerKey) -> int | None:
    """None where the ledger of that moment has no such row."""
    return next((row.resident_bytes for row in moment.rows if row.key == key), None)


def _highest(moments: Sequence[Moment], bands: Sequence[_Band]) -> int:
    rows = (sum(band.sizes[n] for band in bands) for n in range(len(moments)))
    return max(1, *(moment.rss_bytes for moment in moments), *rows)


def _scale(most: int, unit: Unit) -> tuple[int, int]:
    """Bytes from one line to the next, and how many lines there are above 0."""
    round_ones = (lead * 10**zeros * unit.divisor for zeros in range(20) for lead in (1, 2, 5))
    step = next(step for step in round_ones if step * MOST_STEPS >= most)
    return step, -(-most // step)


# ---- the picture ----


def _picture(
    history: History, moments: Sequence[Moment], bands: Sequence[_Band], frame: _Frame
) -> Html:
    xs = [frame.x(moment.captured_at_s) for moment in moments]
    parts = []
    below = [0] * len(moments)
    for band in bands:
        above = [low + amount for low, amount in zip(below, band.sizes, strict=True)]
        forth = [f"{x:.1f},{frame.y(top):.1f}" for x, top in zip(xs, above, strict=True)]
        back = [f"{x:.1f},{frame.y(low):.1f}" for x, low in zip(xs, below, strict=True)]
        parts.append(tag("polygon", points=" ".join([*forth, *reversed(back)]), class_=band.name))
        below = above
    line = " ".join(
        f"{x:.1f},{frame.y(moment.rss_bytes):.1f}" for x, moment in zip(xs, moments, strict=True)
    )
    parts.append(tag("polyline", points=line, class_="rss"))
    shown = [x for x, moment in zip(xs, moments, strict=True) if moment.sample == history.shown]
    parts += [tag("line", x1=x, x2=x, y1=0, y2=HIGH, class_="shown") for x in map(_tenth, shown)]
    parts += _tips(moments, bands, xs)
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {WIDE} {HIGH}",
        preserveAspectRatio="none",
        role="img",
        aria_label="RSS over time as stacked areas; the table below has its figures",
    )


def _tenth(value: float) -> str:
    return f"{value:.1f}"


def _tips(moments: Sequence[Moment], bands: Sequence[_Band], xs: Sequence[float]) -> list[Html]:
    """Over each sample, as far as the next one is not nearer, something to hover over."""
    tips = []
    middles = [(one + other) / 2 for one, other in itertools.pairwise(xs)]
    for n, (moment, low, high) in enumerate(
        zip(moments, [0.0, *middles], [*middles, float(WIDE)], strict=True)
    ):
        figures = [f"{band.label} {size(band.sizes[n])}" for band in bands if band.sizes[n]]
        told = f"sample {moment.sample}, {_stamp(moment.captured_at_s)}: "
        told += f"RSS {size(moment.rss_bytes)}; {'; '.join(reversed(figures))}"
        tips.append(
            tag(
                "rect",
                tag("title", told),
                x=_tenth(low),
                y=0,
                width=_tenth(high - low),
                height=HIGH,
                class_="tip",
            )
        )
    return tips


def _amounts(step: int, steps: int, unit: Unit) -> Html:
    """From the highest line down to 0."""
    labels = [f"{n * step / unit.divisor:g}" for n in range(steps, -1, -1)]
    labels[0] += f" {unit.name}"
    return tag("div", *(tag("span", label) for label in labels), class_="amounts")


def _times(frame: _Frame) -> Html:
    parts = []
    for mark in range(TIME_MARKS + 1):
        at = time.gmtime(frame.start_s + frame.span_s * mark / TIME_MARKS)
        written = time.strftime("%H:%M:%S" if frame.span_s < _DAY_S else "%m-%d %H:%M", at)
        parts.append(tag("span", written))
    return tag("div", *parts, class_="times", title="UTC")


def _stamp(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_s))


# ---- the same in words ----


def _legend(bands: Sequence[_Band]) -> Html:
    """From the top of the picture to its bottom."""
    items = [
        tag(
            "li",
            tag("i", class_=f"swatch {band.name}"),
            f" {band.label}, {_range(band.sizes)}",
        )
        for band in reversed(bands)
    ]
    rss = tag("li", tag("i", class_="swatch rss"), " RSS, as the kernel counts it")
    return tag("ul", rss, join(items), class_="legend series-legend")


def _range(sizes: Sequence[int]) -> str:
    least, most = size(min(sizes)), size(max(sizes))
    return least if least == most else f"{least} to {most}"


def _table(moments: Sequence[Moment], unit: Unit) -> Html:
    found = {row.key: row.label for m in moments for row in m.rows if row.resident_bytes}
    headings = [Heading("sample", "", "ascending"), Heading("when"), Heading("RSS")]
    headings += [Heading(label) for label in found.values()]
    if any(moment.drift_bytes for moment in moments):
        headings.append(Heading("drift", "RSS less all rows"))
    rows = []
    for moment in moments:
        cells = [
            Cell(str(moment.sample), moment.sample),
            Cell(_stamp(moment.captured_at_s), moment.captured_at_s),
            Cell(unit.cell(moment.rss_bytes), moment.rss_bytes),
        ]
        for key in found:
            amount = _of(moment, key)
            cells.append(Cell(unit.cell(amount), -1 if amount is None else amount))
        if len(headings) > len(cells):
            cells.append(Cell(unit.cell(moment.drift_bytes), moment.drift_bytes))
        rows.append(cells)
    shown = table(f"Every sample of the chart, sizes in {unit.name}", headings, rows)
    return tag("div", shown, class_="tall")
