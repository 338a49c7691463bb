"""What stands below the table of chunk sizes: who holds pages down, and where much is free at once.

Rule: both lists are short and ranked, so that their order is the message.
"""

from __future__ import annotations

from allocscope.model.heap import ArenasData, LargeFree, PageHolder, SizeClass
from allocscope.render.columns import Column, fit
from allocscope.render.page import Page
from allocscope.render.text import Unit


def page_holders(page: Page, data: ArenasData, unit: Unit) -> None:
    """The size classes whose live chunks are on the most resident pages."""
    rows = data.page_holders
    if not rows:
        return
    page.blank()
    page.heading(f"Live chunks that hold the most pages, by size ({unit.name})")
    columns = [
        Column("chunk size", tuple(map(size_range, rows)), left=True),
        Column("pages held", tuple(str(row.pages_held) for row in rows)),
        Column("held", tuple(unit.cell(row.held_bytes) for row in rows)),
        Column("live", tuple(unit.cell(row.live_bytes) for row in rows)),
        Column("n live", tuple(str(row.live_count) for row in rows)),
    ]
    page.table(fit(columns, page.look.width))


def largest_free(page: Page, data: ArenasData, unit: Unit) -> None:
    """The largest free chunks."""
    rows = data.largest_free
    if not rows:
        return
    page.blank()
    page.heading(f"The largest free chunks ({unit.name})")
    columns = [
        Column("chunk", tuple(f"{row.address:#x}" for row in rows), left=True),
        Column("arena", tuple(map(_arena, rows)), left=True),
        Column("size", tuple(unit.cell(row.size_bytes) for row in rows)),
        Column("resident", tuple(unit.cell(row.resident_bytes) for row in rows)),
    ]
    page.table(fit(columns, page.look.width))


def size_range(row: SizeClass | PageHolder) -> str:
    """The sizes of a class: ``48``, or ``1056–1136``."""
    if row.min_bytes == row.max_bytes:
        return str(row.min_bytes)
    return f"{row.min_bytes}–{row.max_bytes}"


def _arena(row: LargeFree) -> str:
    return f"{row.arena_index} top" if row.is_top else str(row.arena_index)
