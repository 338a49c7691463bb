"""``explain CORE --html``: the page of html.py without what a core does not tell."""

from __future__ import annotations

from collections.abc import Iterable

from allocscope.model.core_explanation import CoreExplanation, CoreRow
from allocscope.model.heap import ArenasData
from allocscope.model.page_map import PageMap
from allocscope.model.report import Report
from allocscope.render import html_heaps
from allocscope.render.html import (
    PageFiles,
    causes_section,
    caveats_section,
    document,
    footer,
    head,
    map_section,
    settings_section,
)
from allocscope.render.markup import Cell, Heading, Html, Part, table, tag
from allocscope.render.text import Unit, size, unit_for


def page_of_core(
    report: Report[CoreExplanation],
    heap: ArenasData,
    pages: PageMap | None,
    files: PageFiles,
    now: float,
) -> str:
    """The whole page. ``heap``: as ``arenas`` tells it of the core; ``now``: seconds since 1970."""
    data = report.data
    body = [
        head(report, data.verdict, _figures(data), now),
        caveats_section(report.caveats),
        _ledger(data),
        causes_section(data.causes, data.heap_bytes),
        map_section(pages, heap),
        html_heaps.arenas_section(heap),
        html_heaps.classes_section(heap),
        settings_section(heap),
        footer(report),
    ]
    return document(report, body, files)


def _figures(data: CoreExplanation) -> Iterable[tuple[str, str]]:
    yield "RSS", "not known"
    yield "heaps span", size(data.heap_bytes)


def _ledger(data: CoreExplanation) -> Html:
    rows = [row for row in data.ledger if row.virtual_bytes]
    unit = unit_for(max((row.virtual_bytes for row in rows), default=0), False)
    headings = [Heading("memory"), Heading(f"spans {unit.name}"), Heading("not zeros")]
    return tag(
        "section",
        tag("h2", "What was mapped, by owner"),
        table(
            "What was resident a core does not tell; a row opens to what says so",
            headings,
            [_cells(row, unit) for row in rows],
        ),
    )


def _cells(row: CoreRow, unit: Unit) -> list[Cell]:
    label: Part = tag(
        "details",
        tag("summary", tag("i", class_=f"swatch {row.key}"), " ", row.label),
        tag("ul", *(tag("li", said) for said in row.evidence)),
    )
    known = -1 if row.nonzero_bytes is None else row.nonzero_bytes
    return [
        Cell(label),
        Cell(unit.cell(row.virtual_bytes), row.virtual_bytes),
        Cell(unit.cell(row.nonzero_bytes), known),
    ]
