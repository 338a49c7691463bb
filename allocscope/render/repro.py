"""``repro`` for people: what a fixture knows of itself beside what allocscope says of it."""

from __future__ import annotations

from collections.abc import Sequence

from allocscope.model.repro import FixtureInfo, ReproResult, ReproRow
from allocscope.render.columns import Column, fit
from allocscope.render.page import Look, Page
from allocscope.render.text import BYTES, clean, plural

_SIGN = {"equal": "=", "at-least": "≥", "at-most": "≤"}


def fixtures(found: Sequence[FixtureInfo], look: Look) -> str:
    """The fixtures that can be run, a line or two for each."""
    page = Page(look)
    names = max((len(fixture.name) for fixture in found), default=0)
    for fixture in found:
        start = f"{fixture.name:{names}}  "
        page.line(start + clean(fixture.summary), hanging=len(start))
    return page.text()


def results(found: Sequence[ReproResult], look: Look) -> str:
    """Each run: the headline that a user would have seen, the comparison, and what it comes to."""
    page = Page(look)
    for result in found:
        page.heading(f"{result.fixture}, seed {result.seed}")
        page.line(result.headline)
        page.table(fit(_columns(result.rows), look.width))
        page.blank()
    wrong = [(r.fixture, row.figure) for r in found for row in r.rows if not row.ok]
    rows = sum(len(result.rows) for result in found)
    if wrong:
        names = ", ".join(f"{fixture}: {figure}" for fixture, figure in wrong)
        page.line(f"{plural(len(wrong), 'figure')} of {rows} wrong: {names}.", "bold red")
    else:
        page.line(f"All {rows} figures are right.", "green")
    return page.text()


def _columns(rows: Sequence[ReproRow]) -> list[Column]:
    return [
        Column("figure", tuple(row.figure for row in rows), left=True),
        Column("allocscope", tuple(BYTES.cell(row.found) for row in rows)),
        Column("", tuple(_SIGN[row.relation] for row in rows)),
        Column("truth", tuple(BYTES.cell(row.truth) for row in rows)),
        Column("", tuple("" if row.ok else "WRONG" for row in rows), left=True),
    ]
