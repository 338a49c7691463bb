"""``diff`` for people: what grew and of what kind, then where.

Rules: changes always carry their sign; what did not change is not listed; the first line says it
all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from allocscope.model.diff import ArenaGrowth, Change, ClassGrowth, DiffData, Side
from allocscope.model.report import Report
from allocscope.render import sentences
from allocscope.render.columns import Column, fit
from allocscope.render.page import Look, Page
from allocscope.render.text import Unit, age, clean, clean_path, signed_size, unit_for

Row = TypeVar("Row")
NAMED_CLASSES = 3
LONGEST_GROUP = 44


def diff(report: Report[DiffData], look: Look) -> str:
    """The whole text, ended by a newline."""
    page, data = Page(look), report.data
    exact = look.exact_bytes
    page.line(headline(data, exact), "bold")
    for line in grown_classes(data, exact):
        page.line(line)
    page.line(f"before: {_side(data.before)}", "dim")
    apart = "" if data.interval_s is None else f", {age(abs(data.interval_s))} apart"
    page.line(f"after:  {_side(data.after)}{apart}", "dim")
    unit = unit_for(_largest(data), exact)
    _totals(page, data, unit)
    _arenas(page, data.arenas, unit)
    _classes(page, data.size_classes, unit)
    _mappings(page, data, unit)
    if report.caveats:
        page.blank()
    for caveat in sorted(report.caveats, key=lambda c: not c.partial):
        label, style = ("PARTIAL", "bold red") if caveat.partial else ("note", "yellow")
        page.line(f"{label}: {clean(caveat.message)} [{clean(caveat.code)}]", style)
    page.blank()
    page.line(sentences.method(report.method), "dim")
    return page.text()


def headline(data: DiffData, exact: bool = False) -> str:
    """The changes that decide, and the verdict."""
    rss = "unknown" if data.rss_bytes is None else signed_size(data.rss_bytes.change, exact)
    return (
        f"RSS {rss}: live {signed_size(data.live_bytes.change, exact)}, "
        f"free but resident {signed_size(data.free_resident_bytes.change, exact)}: {data.verdict}."
    )


def grown_classes(data: DiffData, exact: bool = False) -> Sequence[str]:
    """The size classes that grew most, of each kind of growth there is."""
    kinds: list[tuple[str, Callable[[ClassGrowth], Change], Callable[[ClassGrowth], Change]]] = []
    if data.growth in ("live", "both"):
        kinds.append(("live", lambda c: c.live_bytes, lambda c: c.live_count))
    if data.growth in ("retention", "both"):
        kinds.append(("free", lambda c: c.free_bytes, lambda c: c.free_count))
    lines = []
    for name, in_bytes, count in kinds:
        grown = sorted(data.size_classes, key=lambda c: -in_bytes(c).change)[:NAMED_CLASSES]
        parts = [
            f"{_sizes(c)} bytes {signed_size(in_bytes(c).change, exact)} "
            f"({count(c).change:+d} chunks)"
            for c in grown
            if in_bytes(c).change > 0
        ]
        if parts:
            lines.append(f"Chunk sizes that grew most, {name}: {'; '.join(parts)}.")
    if data.growth in ("live", "both") and data.mmapped_bytes.change > data.noise_bytes:
        grown_by = signed_size(data.mmapped_bytes.change, exact)
        lines.append(f"Chunks with mappings of their own, live: {grown_by}.")
    return lines


def _side(side: Side) -> str:
    name = f"pid {side.pid} {clean(side.comm, 40)}"
    if side.file is None:
        return f"{name}, now ({side.consistency})"
    when = "" if side.captured_at_s is None else f", {sentences.as_of(side.captured_at_s)}"
    sort = "core " if side.source == sentences.FROM_CORE else ""
    return f"{sort}{clean_path(side.file, 60)}, {name}{when} ({side.consistency})"


def _largest(data: DiffData) -> int:
    figures = [data.rss_bytes, data.totals.system_bytes, data.live_bytes]
    return max(max(f.before, f.after) for f in figures if f is not None)


def _signed(unit: Unit, change: Change) -> str:
    if not change.change:
        return "0"
    cell = unit.cell(change.change)
    return cell if change.change < 0 else f"<+{cell[1:]}" if cell[0] == "<" else f"+{cell}"


def _totals(page: Page, data: DiffData, unit: Unit) -> None:
    totals = data.totals
    rows = [] if data.rss_bytes is None else [("RSS", data.rss_bytes)]
    rows += [
        ("live, in arenas", totals.live_bytes),
        ("live, with mappings of their own", data.mmapped_bytes),
        ("free but resident", totals.free_resident_bytes),
        ("of that trimmable", totals.trimmable_bytes),
        ("of that pinned", totals.pinned_bytes),
        ("arenas, resident", totals.resident_bytes),
        ("arenas, from the kernel", totals.system_bytes),
    ]
    swapped = totals.swapped_bytes
    if swapped is not None and (swapped.before or swapped.after):
        rows.append(("arenas, swapped", swapped))
    page.blank()
    page.heading(f"All arenas ({unit.name})")
    columns = [
        Column("", tuple(name for name, _ in rows), left=True),
        Column("before", tuple(unit.cell(row.before) for _, row in rows)),
        Column("after", tuple(unit.cell(row.after) for _, row in rows)),
        Column("change", tuple(_signed(unit, row) for _, row in rows)),
    ]
    page.table(fit(columns, page.look.width))


def _shown(page: Page, rows: Sequence[Row]) -> tuple[Sequence[Row], str]:
    """The rows that fit the reader's wish, and a word about the others."""
    limit = page.look.rows
    if limit is None or len(rows) <= limit:
        return rows, ""
    return rows[:limit], f"… {len(rows) - limit} more that changed less; --rows all shows them."


def _arenas(page: Page, arenas: Sequence[ArenaGrowth], unit: Unit) -> None:
    if not arenas:
        return
    rows, more = _shown(page, arenas)

    def cells(pick: Callable[[ArenaGrowth], Change]) -> tuple[str, ...]:
        return tuple(_signed(unit, pick(row)) for row in rows)

    page.blank()
    page.heading(f"Changes by arena ({unit.name})")
    columns = [
        Column("arena", tuple(map(_arena, rows)), left=True),
        Column("live", cells(lambda r: r.growth.live_bytes)),
        Column("chunks", tuple(f"{row.growth.live_count.change:+d}" for row in rows), gives_way=3),
        Column("free res", cells(lambda r: r.growth.free_resident_bytes)),
        Column("trimmable", cells(lambda r: r.growth.trimmable_bytes)),
        Column("pinned", cells(lambda r: r.growth.pinned_bytes), gives_way=2),
        Column("resident", cells(lambda r: r.growth.resident_bytes)),
        Column("system", cells(lambda r: r.growth.system_bytes), gives_way=1),
    ]
    page.table(fit(columns, page.look.width))
    if more:
        page.line(more, "dim")


def _arena(row: ArenaGrowth) -> str:
    if row.index_after is None:
        return f"{row.index_before} gone"
    name = f"{row.index_after} main" if row.index_after == 0 else str(row.index_after)
    if row.index_before is None:
        return f"{name} new"
    return name if row.index_before == row.index_after else f"{name} (was {row.index_before})"


def _classes(page: Page, classes: Sequence[ClassGrowth], unit: Unit) -> None:
    if not classes:
        return
    rows, more = _shown(page, classes)
    page.blank()
    page.heading(f"Changes by chunk size ({unit.name})")
    columns = [
        Column("chunk size", tuple(map(_sizes, rows))),
        Column("live", tuple(_signed(unit, row.live_bytes) for row in rows)),
        Column("chunks", tuple(f"{row.live_count.change:+d}" for row in rows)),
        Column("free", tuple(_signed(unit, row.free_bytes) for row in rows)),
        Column("chunks", tuple(f"{row.free_count.change:+d}" for row in rows)),
    ]
    page.table(fit(columns, page.look.width))
    if more:
        page.line(more, "dim")


def _sizes(row: ClassGrowth) -> str:
    if row.min_bytes == row.max_bytes:
        return str(row.min_bytes)
    return f"{row.min_bytes}-{row.max_bytes}"


def _mappings(page: Page, data: DiffData, unit: Unit) -> None:
    if not data.mappings:
        return
    rows, more = _shown(page, data.mappings)
    page.blank()
    page.heading(f"Resident bytes by mapping ({unit.name})")
    columns = [
        Column("", tuple(clean_path(row.group, LONGEST_GROUP) for row in rows), left=True),
        Column("before", tuple(unit.cell(row.resident_bytes.before) for row in rows)),
        Column("after", tuple(unit.cell(row.resident_bytes.after) for row in rows)),
        Column("change", tuple(_signed(unit, row.resident_bytes) for row in rows)),
    ]
    page.table(fit(columns, page.look.width))
    if more:
        page.line(more, "dim")
