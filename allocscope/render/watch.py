"""``watch`` for people: a screen full, or one line for each sample.

Rules: what is of this sample stands beside what is of the last walk only with the walk's age; a
screen is never higher than the terminal, so arenas that do not fit are counted, not shown; a row
keeps its place unless another order was asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

from allocscope.account import watch as account
from allocscope.account.watch import Figure, Point, Series
from allocscope.immutable import immutable
from allocscope.model.ledger import LedgerKey
from allocscope.model.report import Report
from allocscope.model.watch import ArenaGlance, End, Sample, Walk, WalkArena
from allocscope.render.columns import GAP, Column, fit
from allocscope.render.page import Look, Page
from allocscope.render.sparkline import BLOCKS, sparkline
from allocscope.render.text import Unit, age, clean, clean_path, plural, signed_size, size, unit_for

FREE: tuple[LedgerKey, ...] = (
    "glibc-tcache",
    "glibc-fastbin",
    "glibc-free-whole-pages",
    "glibc-free-shared-pages",
    "glibc-top",
)
Order = Literal["usual", "size", "change"]
ORDERS: tuple[Order, ...] = ("usual", "size", "change")
ORDER_NAMES: dict[Order, str] = {
    "usual": "in their usual order",
    "size": "the largest first",
    "change": "what changed most first",
}
KEYS = "q quits, s sorts"
LEAST_LINE = 9
"""A sparkline of fewer characters is left out."""
LEAST_ROWS = 4
LEAST_ARENAS = 6
"""Lines that are kept for arenas, with their heading, while the ledger has more than LEAST_ROWS."""


@immutable
class Screen:
    """How a screen is drawn. ``height``: lines of the terminal; ``levels``: the characters of
    sparklines; ``keys``: whether keys are read."""

    height: int
    order: Order = "usual"
    levels: str = BLOCKS
    keys: bool = True


# ---- lines ----


def line(report: Report[Sample], change: int | None, when: float, exact: bool = False) -> str:
    """One sample in one line. ``when``: seconds since 1970; ``change``: of RSS, since the first
    sample."""
    sample = report.data
    glance, walk = sample.glance, sample.walk
    rss = f"RSS {size(glance.rss_bytes, exact)}"
    if change is not None:
        rss += f" ({signed_size(change, exact)})"
    parts = [time.strftime("%H:%M:%S", time.localtime(when)), rss]
    if glance.swap_bytes:
        parts.append(f"swap {size(glance.swap_bytes, exact)}")
    parts += _refaults(sample)
    parts.append(_malloc(sample, exact))
    live, free = _resident(walk, ("glibc-live",)), _resident(walk, FREE)
    parts.append(f"live {size(live, exact)}, free {size(free, exact)} {_age(sample, exact)}")
    return "  ".join(parts)


def end(report: Report[End]) -> str:
    """The last line."""
    data = report.data
    samples = plural(data.sample_count, "sample")
    return f"{clean(data.message)}: {samples} in {age(data.elapsed_s)}."


def _refaults(sample: Sample) -> list[str]:
    """Pages that its group had to fetch again since the sample before; nothing where all is
    well."""
    rate = sample.refaults_per_s
    return [f"{rate:.0f} refaults/s in its cgroup"] if rate is not None and rate >= 1 else []


def _malloc(sample: Sample, exact: bool) -> str:
    malloc = sample.glance.malloc
    if malloc is None:
        return "malloc ?"
    text = f"malloc {size(malloc.system_bytes, exact)} in {plural(len(malloc.arenas), 'arena')}"
    return f"{text}, {size(malloc.mmapped_bytes, exact)} mmapped"


def _age(sample: Sample, exact: bool) -> str:
    if sample.walked:
        return "(walked now)"
    moved = f", {size(sample.moved_bytes, exact)} moved since" if sample.moved_bytes else ""
    return f"(walked {age(sample.age_s)} ago{moved})"


def _resident(walk: Walk, keys: Sequence[LedgerKey]) -> int:
    return sum(row.resident_bytes for row in walk.ledger if row.key in keys)


# ---- the screen ----


@immutable
class _Row:
    """A row of a table that shows a series: ``now`` is its figure in the last sample."""

    name: str
    figure: Figure
    now: int


def screen(report: Report[Sample], series: Series, look: Look, how: Screen) -> str:
    """The whole screen, as high as the terminal."""
    sheet = _Sheet(report, series, look, how)
    sheet.head()
    sheet.ledger()
    sheet.arenas()
    return sheet.text()


class _Sheet:
    """A screen while it is written."""

    def __init__(self, report: Report[Sample], series: Series, look: Look, how: Screen) -> None:
        self._report, self._series, self._look, self._how = report, series, look, how
        self._sample = report.data
        self._page = Page(look)
        known = (self._sample.glance.rss_bytes or 0, self._sample.walk.rss_bytes)
        self._unit = unit_for(max(known), look.exact_bytes)

    def head(self) -> None:
        """Who is watched, and what the kernel says."""
        process, glance, exact = self._report.process, self._sample.glance, self._look.exact_bytes
        opened = glance.descriptor_count
        self._page.items(
            [
                f"pid {process.pid} {clean(process.comm, 40)}",
                plural(glance.thread_count, "thread"),
                *([] if opened is None else [plural(opened, "descriptor")]),
                f"sample {self._sample.number}",
                f"watched for {age(self._sample.elapsed_s)}",
                clean_path(process.exe, 60),
            ],
            "bold",
        )
        sums = [f"RSS {size(glance.rss_bytes, exact)}"]
        if glance.peak_rss_bytes is not None:
            sums.append(f"peak {size(glance.peak_rss_bytes, exact)}")
        if glance.swap_bytes:
            sums.append(f"swap {size(glance.swap_bytes, exact)}")
        self._page.items([*sums, *_refaults(self._sample), _malloc(self._sample, exact)])
        self._page.blank()

    def ledger(self) -> None:
        """The last walk: how old it is, its verdict, its rows."""
        sample, exact = self._sample, self._look.exact_bytes
        told = "walked for this sample"
        if not sample.walked:
            told = f"walked {age(sample.age_s)} ago; no size has changed since"
            if sample.moved_bytes:
                moved = size(sample.moved_bytes, exact)
                told = f"walked {age(sample.age_s)} ago; RSS or the arenas moved by {moved} since"
        self._page.heading(f"Ledger, {told}")
        self._page.line(clean(sample.walk.verdict), "" if sample.walked else "dim")
        rss = sample.glance.rss_bytes or 0
        rows = [
            _Row(row.label, account.row(row.key), row.resident_bytes)
            for row in sample.walk.ledger
            if any(self._series.of(account.row(row.key), self._look.width))
        ]
        rows = _folded(rows, self._room() - LEAST_ARENAS - 4)
        rows = [*self._ordered(rows), _Row("RSS, of this sample", account.rss, rss)]
        unit = self._unit
        columns = [
            Column("memory", tuple(row.name for row in rows), left=True),
            Column(unit.name, tuple(unit.cell(row.now) for row in rows)),
        ]
        self._table(columns, rows, unit)
        self._page.blank()

    def arenas(self) -> None:
        """As many arenas as there is room for."""
        malloc, unit = self._sample.glance.malloc, self._unit
        if malloc is None:
            self._page.line("The arenas changed while this sample was taken.")
            return
        by_name = {_name(arena): arena for arena in malloc.arenas}
        rows = [
            _Row(name, account.system(arena.address), arena.system_bytes)
            for name, arena in by_name.items()
        ]
        rows, title = self._fitting(self._ordered(rows), self._room() - 3)
        if not rows:
            return
        shown = [by_name[row.name] for row in rows]
        self._page.heading(f"Arenas ({title}); resident and free are the ledger's")
        walked = {arena.address: arena for arena in self._sample.walk.arenas}

        def of_walk(figure: Callable[[WalkArena], int]) -> tuple[str, ...]:
            found = [walked.get(arena.address) for arena in shown]
            return tuple("?" if one is None else unit.cell(figure(one)) for one in found)

        threads = tuple(_count(arena.attached_threads) for arena in shown)
        columns = [
            Column("arena", tuple(row.name for row in rows), left=True),
            Column("threads", threads, gives_way=2),
            Column(f"system {unit.name}", tuple(unit.cell(row.now) for row in rows)),
            Column("top", tuple(unit.cell(arena.top_bytes) for arena in shown), gives_way=1),
            Column("resident", of_walk(lambda arena: arena.resident_bytes)),
            Column("free", of_walk(lambda arena: arena.free_bytes)),
        ]
        self._table(columns, rows, unit)

    def _fitting(self, rows: list[_Row], most: int) -> tuple[list[_Row], str]:
        """The rows that there is room for, and how many they are in words. In the usual order the
        largest are kept."""
        if len(rows) <= max(0, most):
            return rows, str(len(rows))
        kept = rows
        if self._how.order == "usual":
            kept = sorted(rows, key=lambda row: -row.now)
        kept = kept[: max(0, most)]
        largest = " largest" if self._how.order == "usual" else ""
        return [row for row in rows if row in kept], f"{len(kept)}{largest} of {len(rows)}"

    def text(self) -> str:
        """The screen, with its last line at the bottom."""
        lines = self._page.text().splitlines()[: self._how.height - 1]
        blank = [""] * (self._how.height - 1 - len(lines))
        return "\n".join([*lines, *blank, clean(self._foot(), self._look.width)])

    def _foot(self) -> str:
        parts = [KEYS] if self._how.keys else []
        parts.append(f"rows {ORDER_NAMES[self._how.order]}")
        partial = {caveat.code: None for caveat in self._report.caveats if caveat.partial}
        if partial:
            parts.append(f"PARTIAL: {', '.join(partial)}")
        return " · ".join(parts)

    def _room(self) -> int:
        """Lines that are left above the last one."""
        return self._how.height - 1 - self._page.text().count("\n")

    def _ordered(self, rows: Sequence[_Row]) -> list[_Row]:
        order = self._how.order
        if order == "usual":
            return list(rows)
        if order == "size":
            return sorted(rows, key=lambda row: -row.now)
        return sorted(rows, key=lambda row: -abs(self._series.change(row.figure) or 0))

    def _table(self, columns: list[Column], rows: Sequence[_Row], unit: Unit) -> None:
        """The columns, then how far each row has changed and, where there is room, its line."""
        width, series = self._look.width, self._series
        changes = tuple(_signed(series.change(row.figure), unit) for row in rows)
        columns = [*columns, Column("change", changes)]
        left = width - sum(column.width + GAP for column in columns)
        if left >= LEAST_LINE:
            lines = tuple(sparkline(series.of(row.figure, left), self._how.levels) for row in rows)
            columns.append(Column("over time", lines, left=True))
        self._page.table(fit(columns, width))


def _folded(rows: Sequence[_Row], most: int) -> list[_Row]:
    """The largest rows, in their order, and one for all that there is no room for."""
    most = max(most, LEAST_ROWS)
    if len(rows) <= most:
        return list(rows)
    kept = sorted(rows, key=lambda row: -row.now)[: most - 1]
    others = [row for row in rows if row not in kept]

    def rest(at: Point) -> int:
        return sum(row.figure(at) or 0 for row in others)

    name = f"{len(others)} smaller rows"
    return [row for row in rows if row in kept] + [_Row(name, rest, sum(r.now for r in others))]


def _name(arena: ArenaGlance) -> str:
    return f"{arena.index} main" if not arena.index else str(arena.index)


def _count(count: int | None) -> str:
    return "?" if count is None else str(count)


def _signed(change: int | None, unit: Unit) -> str:
    if not change:
        return "?" if change is None else ""
    cell = unit.cell(change)
    return cell if change < 0 or cell.startswith("<") else f"+{cell}"
