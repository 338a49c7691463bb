"""``trim`` for people: what malloc_trim would give back, what would stay and why, what it costs.

Order: the answer in one sentence (what was measured, where something was run; else the forecast),
who this is, what stays and why, the arenas, the cost, caveats, how all this was obtained. Rules: a
forecast is called one; an estimate says what it rests on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from allocscope.model.failure import Failure
from allocscope.model.report import Caveat, Report
from allocscope.model.trim import (
    Applied,
    ArenaForecast,
    ArenaReleased,
    Rehearsed,
    Stays,
    TrimData,
    TrimForecast,
)
from allocscope.render import sentences
from allocscope.render.columns import fit
from allocscope.render.figures import Cut, Figure, columns, unit_of
from allocscope.render.page import Look, Page
from allocscope.render.text import clean, duration, plural, signed_size, size

_Row = tuple[ArenaForecast, ArenaReleased | None]


def trim(report: Report[TrimData], look: Look) -> str:
    """The whole text, ended by a newline."""
    page, data = Page(look), report.data
    exact = look.exact_bytes
    served_by = report.allocator.name if report.allocator else "glibc"
    page.line(headline(data, exact, served_by), "bold")
    page.items(sentences.identity(report), "dim")
    _staying(page, data.forecast.stays)
    page.blank()
    _arenas(page, data)
    page.blank()
    for line in (*cost(data), *aftermath(data, exact)):
        page.line(line)
    _caveats(page, report.caveats)
    page.blank()
    if report.method.source == "passive" and data.forecast.bytes:
        pid = report.process.pid
        page.line(f"allocscope trim {pid} --rehearse tries it in a frozen copy, --apply does it.")
    page.line(sentences.method(report.method), "dim")
    return page.text()


def line(now: float, outcome: Report[TrimData] | Failure, exact: bool = False) -> str:
    """One look of --repeat in one line; ``now`` in seconds since 1970."""
    return f"{time.strftime('%H:%M:%S', time.localtime(now))}  {_happened(outcome, exact)}\n"


def _happened(outcome: Report[TrimData] | Failure, exact: bool) -> str:
    if isinstance(outcome, Failure):
        return f"not trimmed: {clean(outcome.message)}"
    data, applied = outcome.data, outcome.data.applied
    if applied is None:
        free, going = size(data.free_resident_bytes, exact), size(data.forecast.bytes, exact)
        return f"left alone: {free} free and resident, {going} of it would go"
    gave = f"gave back {size(applied.released_bytes, exact)} in {duration(applied.duration_ns)}"
    error = signed_size(data.error_bytes or 0, exact)
    rss = f"RSS {size(data.rss_bytes, exact)} → {size(applied.rss_after_bytes, exact)}"
    back = applied.refaults
    faults = f", {plural(back.minor_fault_count, 'fault')} since" if back is not None else ""
    return f"{gave} (error {error}), {rss}{faults}"


# ---- sentences ----


def headline(data: TrimData, exact: bool = False, served_by: str = "glibc") -> str:
    """The one sentence that must be read. ``served_by``: who serves malloc."""
    call = f"malloc_trim({data.forecast.pad_bytes})"
    if data.applied is not None:
        return _gave_back(call, data, data.applied.released_bytes, data.applied.duration_ns, exact)
    if data.rehearsed is not None:
        measured = data.rehearsed.bytes, data.rehearsed.duration_ns
        return f"In a copy of the process {_gave_back(call, data, *measured, exact)}"
    going, free = data.forecast.bytes, data.free_resident_bytes
    rss = "" if data.rss_bytes is None else f" of RSS {size(data.rss_bytes, exact)}"
    own = f"{size(going, exact)}{rss}" if going else f"nothing{rss}"
    if served_by != "glibc":
        return f"{call} would give back {own}: here {clean(served_by)} serves malloc, not glibc."
    if not free:
        return f"{call} would give back nothing{rss}: glibc holds nothing that is free."
    if not going:
        return f"{call} would give back nothing{rss}: {size(free, exact)} are free, but must stay."
    stay = f"; {size(free - going, exact)} are free and would stay" if free > going else ""
    return f"{call} would give back {own}{stay}."


def _gave_back(
    call: str, data: TrimData, released_bytes: int, duration_ns: int, exact: bool
) -> str:
    gave = f"{call} gave back {size(released_bytes, exact)} in {duration(duration_ns)}"
    if not data.error_bytes:
        return f"{gave}, to the byte what was forecast."
    error = signed_size(data.error_bytes, exact)
    return f"{gave}; forecast {size(data.forecast.bytes, exact)}, error {error}."


_REASONS: tuple[tuple[str, Callable[[Stays], int], str], ...] = (
    (
        "shared pages",
        lambda s: s.shared_page_bytes,
        "on pages that a live chunk, or a free chunk's own header, shares",
    ),
    ("tcache", lambda s: s.tcache_bytes, "parked in tcaches, which malloc_trim never touches"),
    (
        "top",
        lambda s: s.top_bytes,
        "at the top of arenas: only the main arena's goes, down to the pad",
    ),
    ("locked", lambda s: s.locked_bytes, "in mlocked memory, where the kernel refuses"),
)
"""Why free bytes stay: the column's title, the figure, and the reason in words."""


def _staying(page: Page, stays: Stays) -> None:
    found = [(of(stays), text) for _, of, text in _REASONS if of(stays)]
    if not found:
        return
    cells = [size(bytes_, page.look.exact_bytes) for bytes_, _ in found]
    width = max(map(len, cells))
    page.blank()
    page.heading("Free and resident, but stays")
    for cell, (_, text) in sorted(zip(cells, found, strict=True), key=lambda row: -row[1][0]):
        start = f"  {cell:>{width}}  "
        page.line(start + text, hanging=len(start))


def cost(data: TrimData) -> Iterator[str]:
    """What it takes: the calls, the time (an estimate), the faults that may follow."""
    forecast = data.forecast
    calls = _calls(forecast)
    if not calls:
        yield "Cost: no system call; nothing to give back."
        return
    pace = forecast.pace
    chunks = _chunks(forecast)
    yield (
        f"Cost: {calls}{chunks}; {duration(forecast.estimated_ns)} to "
        f"{duration(forecast.estimated_most_ns)} of CPU time, the less the more of it is in the "
        f"CPU's caches (measured here: {duration(pace.call_ns)} a call, {duration(pace.page_ns)} a "
        "page). On a busy machine the wait for a CPU comes on top."
    )
    if forecast.page_count:
        yield (
            f"If the program uses those pages again: at most {plural(forecast.page_count, 'fault')}"
            f", {duration(forecast.estimated_refault_ns)} in all."
        )


def _calls(forecast: TrimForecast) -> str:
    parts = [
        f"{forecast.madvise_count} madvise" if forecast.madvise_count else "",
        f"{forecast.brk_count} brk" if forecast.brk_count else "",
    ]
    names = " and ".join(part for part in parts if part)
    total = forecast.madvise_count + forecast.brk_count
    return f"{names} {'call' if total == 1 else 'calls'}" if names else ""


def _chunks(forecast: TrimForecast) -> str:
    if not forecast.visit_count + forecast.merge_count:
        return ""
    merged = f", {forecast.merge_count} merged" if forecast.merge_count else ""
    return f", {plural(forecast.visit_count, 'free chunk')} looked at{merged}"


def aftermath(data: TrimData, exact: bool = False) -> Iterator[str]:
    """What is known besides, where malloc_trim ran."""
    if data.rehearsed is not None:
        yield _of_rehearsal(data.rehearsed)
    if data.applied is not None:
        yield from _of_application(data.applied, exact)


def _of_rehearsal(rehearsed: Rehearsed) -> str:
    locks = ""
    if rehearsed.locks_held:
        locks = f", with {plural(rehearsed.locks_held, 'arena lock')} opened that somebody held"
    return (
        f"Rehearsed: malloc_trim ran in the copy{locks}, and returned {rehearsed.returned}; the "
        f"process stood still for {duration(rehearsed.pause_ns)} to be copied. Its time differs "
        "from that in the process: pages that it writes are copied first, pages that it gives "
        "back are not freed."
    )


def _of_application(applied: Applied, exact: bool) -> Iterator[str]:
    yield (
        f"Applied: thread {applied.tid} made the call, which returned {applied.returned}, and was "
        f"kept from its own work for {duration(applied.pause_ns)} beyond it."
    )
    back = applied.refaults
    if back is not None:
        yield (
            f"In the {duration(back.watched_ns)} since then: "
            f"{plural(back.minor_fault_count, 'minor fault')} in the whole process; "
            f"{size(back.returned_bytes, exact)} of the arenas' pages are resident again."
        )


# ---- the table ----


def _arenas(page: Page, data: TrimData) -> None:
    measured = data.applied or data.rehearsed
    rows: list[_Row] = [(row, None) for row in data.forecast.per_arena]
    if measured is not None:
        rows = list(zip(data.forecast.per_arena, measured.per_arena, strict=True))
    goes = data.forecast.bytes > 0
    title = "Arenas, the most to give first" if goes else "Arenas, the most resident first"
    figures = _figures(measured is not None)
    cut = Cut(title, rows, figures, lambda r: r[0].bytes if goes else r[0].resident_bytes)
    unit = unit_of(cut, page.look.exact_bytes)
    page.heading(f"{cut.title} ({unit.name})")
    page.table(fit(columns(cut, unit, page.look.rows), page.look.width))


def _figures(measured: bool) -> list[Figure[_Row]]:
    staying: list[Figure[_Row]] = [
        Figure(title, _stays(of), gives_way=2, if_any=True) for title, of, _ in _REASONS
    ]
    released: list[Figure[_Row]] = [
        Figure("released", lambda r: r[1].released_bytes if r[1] else None),
        Figure("error", lambda r: r[1].error_bytes if r[1] else None, gives_way=1),
    ]
    return [
        Figure(
            "arena", lambda r: f"{r[0].index} main" if r[0].is_main else str(r[0].index), "name"
        ),
        Figure("resident", lambda r: r[0].resident_bytes),
        Figure("forecast" if measured else "goes", lambda r: r[0].bytes),
        *(released if measured else []),
        *staying,
        Figure("madvise", lambda r: r[0].madvise_count, "count", gives_way=3),
        Figure("brk", lambda r: r[0].brk_count, "count", gives_way=4, if_any=True),
    ]


def _stays(of: Callable[[Stays], int]) -> Callable[[_Row], int]:
    return lambda row: of(row[0].stays)


def _caveats(page: Page, caveats: Sequence[Caveat]) -> None:
    if caveats:
        page.blank()
    for caveat in sorted(caveats, key=lambda c: not c.partial):
        label, style = ("PARTIAL", "bold red") if caveat.partial else ("note", "yellow")
        page.line(f"{label}: {clean(caveat.message)} [{clean(caveat.code)}]", style)
