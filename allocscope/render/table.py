"""``arenas`` for people: the headline, one row per arena, and what one must know beside it.

Order: what is the matter (headline), who this is, the arenas by resident size, what lies outside
them, the settings in force, caveats, glibc's word, and last how all this was obtained. Several
processes: one line for each, then the details.
"""

from __future__ import annotations

from collections.abc import Sequence

from allocscope.model.asked import AskedData
from allocscope.model.failure import Failure
from allocscope.model.heap import ArenasData
from allocscope.model.report import Report
from allocscope.render import asked, sentences, sizes
from allocscope.render.columns import Column, fit
from allocscope.render.cuts import CUTS, LEGEND, UNSETTLED
from allocscope.render.figures import columns, unit_of
from allocscope.render.page import Look, Page
from allocscope.render.text import Unit, clean, unit_for

Outcome = Report[ArenasData] | Report[AskedData] | Failure


def arenas(outcomes: Sequence[Outcome], look: Look) -> str:
    """The whole text for one or several processes, ended by a newline."""
    page = Page(look)
    if len(outcomes) > 1:
        _overview(page, outcomes)
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            continue
        if len(outcomes) > 1:
            page.blank()
            page.heading(f"── {outcome.process.pid} {clean(outcome.process.comm, 40)} ──")
        _process(page, outcome)
    return page.text()


def _process(page: Page, report: Report[ArenasData] | Report[AskedData]) -> None:
    data, look = report.data, page.look
    if isinstance(data, AskedData):
        page.line(asked.headline(data, look.exact_bytes), "bold")
    else:
        page.line(sentences.headline_of(data, report.allocator, look.exact_bytes), "bold")
    page.items(sentences.identity(report), "dim")
    page.blank()
    if isinstance(data, AskedData):
        asked.arenas(page, data)
        page.caveats(report.caveats)
    else:
        _cut(page, data)
        page.blank()
        page.line(sentences.mmapped(data.mmapped, look.exact_bytes))
        _settings(page, data)
        page.caveats(report.caveats)
        _glibc_word(page, data)
    page.blank()
    page.line(sentences.method(report.method), "dim")


def _cut(page: Page, data: ArenasData) -> None:
    look = page.look
    chosen = CUTS[look.by](data)
    unit = unit_of(chosen, look.exact_bytes)
    fitted = fit(columns(chosen, unit, look.rows), look.width)
    page.heading(f"{chosen.title} ({unit.name})")
    page.table(fitted)
    if look.by == "size":
        sizes.page_holders(page, data, unit)
        sizes.largest_free(page, data, unit)
    if not look.by:
        legend = [f"{name}: {LEGEND[name]}" for name in fitted.titles if name in LEGEND]
        if any(arena.consistency == "partial" for arena in data.arenas):
            legend.append(f"{UNSETTLED}: could not be validated")
        page.items(legend, "dim")


def _settings(page: Page, data: ArenasData) -> None:
    lines = list(sentences.settings_lines(data.settings, page.look.exact_bytes))
    names = max(len(name) for name, _, _ in lines)
    values = max((len(value) for _, value, origin in lines if origin), default=0)
    page.blank()
    page.heading("Settings in force")
    for name, value, origin in lines:
        start = f"  {name:{names}}  "
        text = f"{value:{values}}  {origin}" if origin else value
        page.line(start + text, hanging=len(start))


def _glibc_word(page: Page, data: ArenasData) -> None:
    says = data.glibc_says
    if says is None:
        return
    exact = page.look.exact_bytes
    page.blank()
    page.line(sentences.glibc_word(says), "green" if says.agrees else "bold red")
    for differing in says.differences:
        page.line(f"  {sentences.difference(differing, exact)}", hanging=2)
    for remark in sentences.glibc_remarks(says, exact):
        page.line(remark)


def _overview(page: Page, outcomes: Sequence[Outcome]) -> None:
    read = [o.data for o in outcomes if not isinstance(o, Failure)]
    largest = max((data.rss_bytes or _held(data) or 0 for data in read), default=0)
    unit = unit_for(largest, page.look.exact_bytes)
    rows = [_overview_row(outcome, unit) for outcome in outcomes]
    titles = ("pid", "comm", "RSS", "glibc holds", "free res", "trimmable", "arenas")
    made = [
        Column(
            title,
            tuple(row[n] for row in rows),
            left=title == "comm",
            gives_way=(0, 0, 0, 1, 0, 0, 2)[n],
        )
        for n, title in enumerate(titles)
    ]
    page.heading(f"{len(outcomes)} processes ({unit.name})")
    page.table(fit(made, page.look.width))
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            who = clean(outcome.comm) if outcome.pid is None else str(outcome.pid)
            page.line(f"{who}: {_why(outcome)}", "red")


def _why(failure: Failure) -> str:
    hint = f". {clean(failure.hint)}" if failure.hint else ""
    return clean(failure.message) + hint


def _overview_row(outcome: Outcome, unit: Unit) -> tuple[str, ...]:
    if isinstance(outcome, Failure):
        pid = "file" if outcome.pid is None else str(outcome.pid)
        return (pid, clean(outcome.comm, 20) or "?", "?", "?", "?", "?", "?")
    data = outcome.data
    return (
        str(outcome.process.pid),
        clean(outcome.process.comm, 20),
        unit.cell(data.rss_bytes),
        unit.cell(_held(data)),
        unit.cell(None if isinstance(data, AskedData) else data.totals.free_resident_bytes),
        unit.cell(None if isinstance(data, AskedData) else data.totals.trimmable_bytes),
        str(len(data.arenas)),
    )


def _held(data: ArenasData | AskedData) -> int | None:
    """Resident bytes of glibc's, None where nothing tells."""
    return None if isinstance(data, AskedData) else sentences.held_bytes(data)
