"""``tune`` for people: what is in force, how arenas are used, and what is worth a try.

Rules: the first line says whether anything is; what is an estimate is called one, and each has the
command that turns it into a measurement.
"""

from __future__ import annotations

from allocscope.model.report import Report
from allocscope.model.situation import Contention
from allocscope.model.tune import ArenaUse, Suggestion, TuneData
from allocscope.render import sentences
from allocscope.render.columns import fit
from allocscope.render.figures import Cut, Figure, columns, unit_of
from allocscope.render.page import Look, Page
from allocscope.render.text import clean, plural, size

GLIBC = ("glibc", "unknown")

_FIGURES: tuple[Figure[ArenaUse], ...] = (
    Figure("arena", lambda use: f"{use.index} main" if not use.index else str(use.index), "name"),
    Figure("threads", lambda use: use.attached_threads, "count", gives_way=1),
    Figure("resident", lambda use: use.resident_bytes),
    Figure("live", lambda use: use.live_bytes, gives_way=2),
    Figure("free res", lambda use: use.free_resident_bytes),
    Figure("reusable", lambda use: use.reusable_bytes),
    Figure("", lambda use: "idle" if use.idle else "", "name", adds_up=False, if_any=True),
)


def tune(report: Report[TuneData], look: Look) -> str:
    """The whole text, ended by a newline."""
    page, data = Page(look), report.data
    page.line(headline(report), "bold")
    page.items(sentences.identity(report), "dim")
    _settings(page, data)
    _arenas(page, data)
    _suggestions(page, data, now=" now" if report.method.source == "passive" else "")
    page.caveats(report.caveats)
    page.blank()
    page.line(sentences.method(report.method), "dim")
    return page.text()


def headline(report: Report[TuneData]) -> str:
    """Whether anything is worth a try."""
    data, process = report.data, report.process
    who = f"{clean(process.comm, 40)} (pid {process.pid})"
    if report.allocator is not None and report.allocator.name not in GLIBC:
        name = clean(report.allocator.name)
        return f"{who}: {name} serves malloc, which these settings of glibc do not concern."
    names = ", ".join(f"{one.key}={one.value}" for one in data.suggestions)
    said = f"worth a try: {names}" if names else "no setting is worth a try"
    if not names and report.method.source == sentences.FROM_CORE:
        said = "what a core tells shows no setting that is worth a try"
    if data.without_effect:
        count = len(data.without_effect)
        said += f"; {plural(count, 'setting')} {'has' if count == 1 else 'have'} no effect"
    return f"{who}: {said}."


def _settings(page: Page, data: TuneData) -> None:
    page.blank()
    page.heading("Settings in force")
    lines = list(sentences.settings_lines(data.settings, page.look.exact_bytes))
    if data.limit_rule is not None:
        lines[0] = ("arenas", f"{data.settings.arena_count}, {clean(data.limit_rule)}", "")
    names = max(len(name) for name, _, _ in lines)
    for name, value, origin in lines:
        start = f"  {name:{names}}  "
        page.line(start + (f"{value}  {origin}" if origin else value), hanging=len(start))
    if data.without_effect:
        page.blank()
        page.heading("Without effect")
    for text in data.without_effect:
        page.line(f"   - {clean(text)}", hanging=5)


def _arenas(page: Page, data: TuneData) -> None:
    look = page.look
    cut = Cut("Arenas", data.arenas, _FIGURES, lambda use: use.reusable_bytes)
    unit = unit_of(cut, look.exact_bytes)
    page.blank()
    page.heading(f"Arenas, the most reusable first ({unit.name})")
    page.table(fit(columns(cut, unit, look.rows), look.width))
    words = ["free res: free, yet in RSS", "reusable: of that, whole pages and the end of the heap"]
    if data.idle_arena_count:
        words.append("idle: no thread is attached")
    page.items(words, "dim")
    if data.idle_arena_count:
        held = size(data.idle_reusable_bytes, look.exact_bytes)
        page.line(f"{plural(data.idle_arena_count, 'arena')} without a thread: {held} reusable.")
    if data.contention is not None and data.contention.look_count:
        page.line(_contention(data.contention))


def _contention(seen: Contention) -> str:
    return (
        f"Contention: in {plural(seen.look_count, 'look')} at the arenas' locks "
        f"{_percent(seen.locked_count, seen.look_count)} were taken, "
        f"{_percent(seen.waited_for_count, seen.look_count)} with others waiting."
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %"


def _suggestions(page: Page, data: TuneData, now: str) -> None:
    exact = page.look.exact_bytes
    page.blank()
    if data.suggestions:
        page.heading("Worth a try (estimates from one look, no promises)")
    for number, suggestion in enumerate(data.suggestions, start=1):
        _suggestion(page, number, suggestion)
    if data.suggestions:
        page.line(
            "Run each under the same load as now, compare `allocscope footprint PID`, and time "
            "what the program does."
        )
        page.blank()
    if data.left_alone:
        page.heading("Left as they are")
    for left in data.left_alone:
        page.line(f"   - {left.key}: {clean(left.reason)}", hanging=5)
    if data.trimmable_bytes:
        going = size(data.trimmable_bytes, exact)
        page.blank()
        page.line(f"Without any setting malloc_trim(0) would release {going}{now}.")


def _suggestion(page: Page, number: int, suggestion: Suggestion) -> None:
    page.line(f"{number}. {suggestion.key}={suggestion.value}", "bold", hanging=3)
    page.line(f"   estimate: {clean(suggestion.estimate)}.", hanging=5)
    for text in suggestion.rests_on:
        page.line(f"   - {clean(text)}", hanging=5)
    page.line(f"   may cost: {clean(suggestion.cost)}.", hanging=5)
    page.line(f"   > {clean(suggestion.command)}", hanging=5)
    if suggestion.in_program is not None:
        when = "" if suggestion.only_at_start else ", at any time"
        page.line(f"   > or in the program{when}: {clean(suggestion.in_program)}", hanging=5)
