"""``check`` for people: which limits are kept, and of those that are not: the figure, its causes,
and what can be done.

Rules: the first line is the answer; what bears on several limits is told once. The first cause of
an exceeded limit is told at length, the others in a line each.
"""

from __future__ import annotations

from collections.abc import Sequence

from allocscope.model.gate import GateData, LimitKey, Verdict
from allocscope.model.report import Report
from allocscope.render import sentences
from allocscope.render.columns import Column, fit
from allocscope.render.explain import live_pid, remedy_words, tell_cause
from allocscope.render.page import Look, Page
from allocscope.render.text import clean, plural, size


def check(report: Report[GateData], look: Look) -> str:
    """The whole text, ended by a newline."""
    page, data = Page(look), report.data
    page.line(headline(report), "bold red" if data.exceeded_count else "bold")
    page.items(sentences.identity(report), "dim")
    page.blank()
    _table(page, data)
    exceeded = [verdict for verdict in data.limits if verdict.exceeded]
    told: set[str] = set()
    for verdict in exceeded:
        page.blank()
        _exceeded(page, verdict, told)
    _causes(page, exceeded, live_pid(report))
    page.caveats(report.caveats)
    page.blank()
    page.line(sentences.method(report.method), "dim")
    return page.text()


def headline(report: Report[GateData]) -> str:
    """The answer in one sentence."""
    data, process = report.data, report.process
    who = f"{clean(process.comm, 40)} (pid {process.pid})"
    if data.exceeded_count:
        names = ", ".join(verdict.key for verdict in data.limits if verdict.exceeded)
        return (
            f"{who} exceeds {data.exceeded_count} of {plural(len(data.limits), 'limit')}: {names}."
        )
    kept = "the limit" if len(data.limits) == 1 else f"all {len(data.limits)} limits"
    but = ", as far as it could be read" if report.partial else ""
    return f"{who} keeps {kept}{but}."


def amount(key: LimitKey, value: float, exact: bool = False) -> str:
    """A figure in its unit."""
    if key.endswith("-ratio"):
        return f"{100 * value:.1f} %"
    return str(value) if key == "max-arenas" else size(int(value), exact)


def _table(page: Page, data: GateData) -> None:
    exact = page.look.exact_bytes
    limits = data.limits
    columns = [
        Column("limit", tuple(v.key for v in limits), left=True),
        Column("allowed", tuple(amount(v.key, v.most, exact) for v in limits)),
        Column("found", tuple(amount(v.key, v.found, exact) for v in limits)),
        Column("", tuple("exceeded" if v.exceeded else "kept" for v in limits), left=True),
    ]
    page.table(fit(columns, page.look.width))


def _exceeded(page: Page, verdict: Verdict, told: set[str]) -> None:
    exact = page.look.exact_bytes
    found, most = (amount(verdict.key, value, exact) for value in (verdict.found, verdict.most))
    page.heading(f"{verdict.key}: {found}, {most} allowed")
    lines = [f"   - {clean(text)}" for text in verdict.says]
    lines += [f"   > {remedy_words(remedy, exact)}" for remedy in verdict.remedies]
    for line in lines:
        if line not in told:
            page.line(line, hanging=5)
    if lines and told.issuperset(lines):
        page.line("   - as above", hanging=5)
    told.update(lines)


def _causes(page: Page, exceeded: Sequence[Verdict], pid: int | None) -> None:
    """Each once, by falling weight."""
    by_key = {cause.key: cause for verdict in exceeded for cause in verdict.causes}
    if not by_key:
        return
    page.blank()
    page.heading("Causes")
    first = {verdict.causes[0].key for verdict in exceeded if verdict.causes}
    ranked = sorted(by_key.values(), key=lambda cause: -cause.exclusive_bytes)
    for number, cause in enumerate((c for c in ranked if c.key in first), start=1):
        tell_cause(page, number, cause, pid)
    others = [cause for cause in ranked if cause.key not in first]
    if others:
        page.line("Smaller, or of less weight here (--json tells all of them):")
    for cause in others:
        page.line(f"   - {cause.title}: {size(cause.bytes, page.look.exact_bytes)}", hanging=5)
