"""``map`` for people: categories with their owners below them, or every mapping by itself.

Rules: categories stand in the ledger's order, owners by falling resident bytes, at most
``Look.rows`` of each, and what was left out is summed in a line of its own; a run of slabs shows
how full they are as a row of bars, the oldest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from allocscope.account.ledger import LABELS
from allocscope.account.mapview import ORDER, sizes_of, weight
from allocscope.immutable import immutable
from allocscope.model.mapview import Fill, MapData, MapRow, Sizes
from allocscope.model.owners import Holding, OwnerKey
from allocscope.model.report import Report
from allocscope.render import sentences
from allocscope.render.columns import Column, fit
from allocscope.render.page import Look, Page
from allocscope.render.text import Unit, clean, clean_path, plural, size, unit_for

HEAPS: dict[OwnerKey, str] = {
    "glibc-main-heap": "malloc, main heap",
    "glibc-thread-heap": "malloc, thread heaps",
}
BARS = "▁▂▃▄▅▆▇█"
WIDEST_NAME = 44
NARROWEST_NAME = 24
LEGEND = (
    "N × SIZE: slabs of equal size in one row; fill: how much of each is resident, from the oldest "
    "(left) to the newest"
)


@immutable
class _Line:
    """A line of the table: a category, an owner below it, or what is left of one."""

    name: str
    sizes: Sizes
    fill: Fill | None = None


def map_text(report: Report[MapData], look: Look) -> str:
    """The whole text, ended by a newline."""
    page = Page(look)
    data = report.data
    page.line(_headline(data, look.exact_bytes), "bold")
    page.items(sentences.identity(report), "dim")
    page.blank()
    unit = unit_for(sum(weight(data.totals)), look.exact_bytes)
    if data.parts:
        _raw(page, data.parts, unit)
    else:
        _rows(page, data, unit)
    page.caveats(report.caveats)
    page.blank()
    page.line(sentences.method(report.method), "dim")
    return page.text()


def _headline(data: MapData, exact: bool) -> str:
    mappings = plural(data.mapping_count, "mapping")
    if data.rss_bytes is None:
        text = f"{size(data.totals.virtual_bytes, exact)} of address space in {mappings}"
    else:
        text = f"RSS {size(data.rss_bytes, exact)} in {mappings}"
    largest = max(_by_key(data.rows), key=lambda pair: weight(_sum(pair[1])), default=None)
    amount = 0 if largest is None else sum(weight(_sum(largest[1])))
    if largest is None or not amount:
        return text + "."
    return f"{text}; the most of it, {size(amount, exact)}, is {_label(largest[0])}."


def _label(key: OwnerKey) -> str:
    row: str | None = HEAPS.get(key)
    return row if row is not None else LABELS[key]  # type: ignore[index]


def _by_key(rows: Iterable[MapRow]) -> list[tuple[OwnerKey, list[MapRow]]]:
    groups: dict[OwnerKey, list[MapRow]] = {key: [] for key in ORDER}
    for row in rows:
        groups[row.key].append(row)
    return [(key, group) for key, group in groups.items() if group]


def _sum(rows: Iterable[MapRow]) -> Sizes:
    return sizes_of(row.sizes for row in rows)


# ---- by owner ----


def _rows(page: Page, data: MapData, unit: Unit) -> None:
    room = min(WIDEST_NAME, max(NARROWEST_NAME, page.look.width - 46))
    lines: list[_Line] = []
    for key, rows in _by_key(data.rows):
        lines += _category(key, rows, page.look, room)
    page.heading(f"Memory by owner ({unit.name})")
    _table(page, lines, unit, data.totals)
    if any(line.fill for line in lines):
        page.line(LEGEND, "dim")


def _category(key: OwnerKey, rows: Sequence[MapRow], look: Look, room: int) -> Iterable[_Line]:
    """The category's sum and its owners; the sum alone where there is one owner, without a path."""
    yield _Line(_label(key), _sum(rows))
    if len(rows) == 1 and rows[0].slab_bytes is None and not rows[0].owner.startswith("/"):
        return
    shown = rows if look.rows is None else rows[: look.rows]
    for row in shown:
        yield _Line(f"  {_owner_name(row, room, look.exact_bytes)}", row.sizes, row.fill)
    rest = rows[len(shown) :]
    if rest:
        yield _Line(f"  and {len(rest)} more", _sum(rest))


def _owner_name(row: MapRow, room: int, exact: bool) -> str:
    if row.slab_bytes is not None:
        each = f"{row.part_count} × {size(row.slab_bytes, exact)} "
        return each + clean(row.owner, max(8, room - len(each)))
    name = row.owner
    if name.startswith("/"):
        return clean_path(name, room)
    parts = f" ({row.part_count} pieces)" if row.part_count > 1 else ""
    return clean(name, max(8, room - len(parts))) + parts


def _bars(fill: Fill | None) -> str:
    if fill is None or not any(fill.ratios):
        return ""
    drawn = "".join(BARS[min(7, int(ratio * 8))] if ratio else " " for ratio in fill.ratios)
    return f"{drawn} {fill.full_count} full"


def _table(page: Page, lines: Sequence[_Line], unit: Unit, totals: Sizes) -> None:
    def cells(name: str) -> tuple[str, ...]:
        return tuple(unit.cell(getattr(line.sizes, name)) for line in lines)

    def told(name: str) -> bool:
        return any(getattr(line.sizes, name) for line in lines)

    def known(name: str) -> bool:
        return any(getattr(line.sizes, name) is not None for line in lines)

    columns = [
        Column("memory", tuple(line.name for line in lines), "all", left=True),
        Column("virtual", cells("virtual_bytes"), unit.cell(totals.virtual_bytes), 3),
    ]
    for title, name, gives_way in (
        ("resident", "resident_bytes", 0),
        ("dirty", "private_dirty_bytes", 2),
    ):
        if known(name):
            foot = unit.cell(getattr(totals, name))
            columns.append(Column(title, cells(name), foot, gives_way))
    for title, name in (
        ("lazyfree", "lazyfree_bytes"),
        ("swapped", "swapped_bytes"),
        ("huge", "huge_bytes"),
    ):
        if told(name):
            columns.append(Column(title, cells(name), unit.cell(getattr(totals, name)), 1))
    if any(line.fill for line in lines):
        fills = tuple(_bars(line.fill) for line in lines)
        columns.append(Column("fill", fills, gives_way=4, left=True))
    page.table(fit(columns, page.look.width))


# ---- one by one ----


def _raw(page: Page, parts: Sequence[Holding], unit: Unit) -> None:
    shown = parts if page.look.rows is None else parts[: page.look.rows]

    def cells(name: str) -> tuple[str, ...]:
        return tuple(unit.cell(getattr(part, name)) for part in shown)

    totals = sizes_of(parts)
    room = max(NARROWEST_NAME, page.look.width - 62)
    columns = [
        Column("address", tuple(f"{part.start:x}" for part in shown), "all", left=True),
        Column("perms", tuple(clean(part.perms) for part in shown), left=True, gives_way=2),
        Column("virtual", cells("virtual_bytes"), unit.cell(totals.virtual_bytes), 3),
        Column("resident", cells("resident_bytes"), unit.cell(totals.resident_bytes)),
        Column("dirty", cells("private_dirty_bytes"), unit.cell(totals.private_dirty_bytes), 4),
        Column("memory", tuple(_part_name(part, room) for part in shown), left=True),
    ]
    page.heading(f"Mappings by address ({unit.name})")
    page.table(fit(columns, page.look.width))
    if len(shown) < len(parts):
        page.line(f"{len(parts) - len(shown)} more: --rows all shows them.", "dim")


def _part_name(part: Holding, room: int) -> str:
    name = part.owner
    return clean_path(name, room) if name.startswith("/") else clean(name, room)
