"""``explain`` of a core for people: the verdict, what was mapped by owner, and what the heap's
structure shows.

Rules: no figure stands here as resident; the bar is of malloc's memory alone, for the rest of an
address space is mostly reserve.
"""

from __future__ import annotations

from allocscope.account.ledger import MALLOC_ROWS
from allocscope.model.core_explanation import CoreExplanation, CoreRow
from allocscope.model.report import Report
from allocscope.render import sentences
from allocscope.render.bar import stacked
from allocscope.render.columns import GAP, Column, fit
from allocscope.render.explain import LEAST_EVIDENCE, LETTERS, short, tell_causes
from allocscope.render.page import Look, Page
from allocscope.render.text import clean, size, unit_for


def explain_core(report: Report[CoreExplanation], look: Look) -> str:
    """The whole text, ended by a newline."""
    page, data = Page(look), report.data
    page.line(clean(data.verdict), "bold")
    page.items(sentences.identity(report), "dim")
    page.items(sums(data, look.exact_bytes), "dim")
    page.blank()
    _ledger(page, [row for row in data.ledger if row.virtual_bytes])
    tell_causes(page, data.causes, data.heap_bytes)
    page.caveats(report.caveats)
    page.blank()
    page.line(sentences.method(report.method), "dim")
    return page.text()


def sums(data: CoreExplanation, exact: bool = False) -> list[str]:
    """What can be said of the whole."""
    return ["RSS not known", f"heaps of any kind span {size(data.heap_bytes, exact)}"]


def _ledger(page: Page, rows: list[CoreRow]) -> None:
    malloc = [row for row in rows if row.key in MALLOC_ROWS]
    unit = unit_for(max((row.virtual_bytes for row in rows), default=0), page.look.exact_bytes)
    page.line(stacked([(LETTERS[row.key], row.virtual_bytes) for row in malloc], page.look.width))
    page.blank()
    columns = [
        Column("", tuple(LETTERS[row.key] for row in rows), left=True),
        Column("memory", tuple(row.label for row in rows), left=True),
        Column(f"spans {unit.name}", tuple(unit.cell(row.virtual_bytes) for row in rows)),
        Column("not zeros", tuple(unit.cell(row.nonzero_bytes) for row in rows)),
    ]
    left = page.look.width - sum(column.width + GAP for column in columns)
    if left >= LEAST_EVIDENCE:
        told = tuple(short(row, left) for row in rows)
        columns.append(Column("what says so", told, left=True, gives_way=1))
    page.table(fit(columns, page.look.width))
