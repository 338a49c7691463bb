"""``pins`` for people: each chunk that keeps the end of a heap, what it is and who points at it;
then the sizes whose live chunks hold pages."""

from __future__ import annotations

from allocscope.model.pins import Pin, PinsData, Referrer
from allocscope.model.report import Report
from allocscope.render import sentences
from allocscope.render.columns import Column, fit
from allocscope.render.page import Look, Page
from allocscope.render.text import clean, plural, size, unit_for

HELD = {
    "live": "live",
    "tcache": "parked in a thread cache",
    "fastbin": "parked in a fastbin",
    "tcache-struct": "a thread cache's own structure",
}
WHOLE = ("passive", "snapshot")
"""Sources that have all of a process's memory."""
KINDS = {
    "vtable": "an object of {name}",
    "string": "text",
    "pointer-array": "pointers",
    "zero": "zeros",
    "unknown": "",
}


def pins_text(report: Report[PinsData], look: Look) -> str:
    """The whole text, ended by a newline."""
    page = Page(look)
    data = report.data
    page.line(_headline(data, look.exact_bytes), "bold")
    page.items(sentences.identity(report), "dim")
    page.blank()
    for number, pin in enumerate(data.pins, start=1):
        _pin(page, number, pin, report.method.source)
    if data.pins:
        page.blank()
    _classes(page, data)
    page.caveats(report.caveats)
    page.blank()
    how = sentences.method(report.method)
    if data.scanned_bytes is not None:
        how += f"; {size(data.scanned_bytes, look.exact_bytes)} searched for pointers"
    page.line(how, "dim")
    return page.text()


def _headline(data: PinsData, exact: bool) -> str:
    pinned = sum(row.pinned_bytes for row in data.size_classes) + data.mixed_bytes
    on_pages = f"{size(pinned, exact)} of free memory share pages with live chunks"
    if not data.pins:
        return f"No heap's end is held by a chunk with free memory below it; {on_pages}."
    first = data.pins[0]
    held = f"{size(first.free_bytes_below, exact)} of free memory lie below one chunk"
    if first.run_count > 1:
        held = (
            f"{size(first.free_bytes_below, exact)} of free memory lie below the last "
            f"{first.run_count} chunks"
        )
    return f"{held} of {_heap(first)}; {on_pages}."


def _heap(pin: Pin) -> str:
    if not pin.arena_index:
        return "the main heap"
    return f"the heap at {pin.heap_start:#x} of arena {pin.arena_index}"


def _pin(page: Page, number: int, pin: Pin, source: str) -> None:
    exact = page.look.exact_bytes
    kind = "" if pin.kind is None else KINDS[pin.kind.type].format(name=clean(pin.kind.name, 60))
    what = f"{HELD[pin.held_by]}{', ' + kind if kind else ''}"
    page.line(
        f"{number}. chunk {pin.chunk:#x}, {size(pin.size_bytes, exact)}, {what}: the last held "
        f"chunk of {_heap(pin)}",
        "bold",
        hanging=3,
    )
    below = f"{size(pin.free_bytes_below, exact)} are free below it"
    if pin.run_count > 1:
        below = (
            f"{size(pin.free_bytes_below, exact)} are free below the {pin.run_count} held chunks "
            f"({size(pin.run_bytes, exact)}) of which it is the last"
        )
    page.line(f"   - {below}; {_gain(pin.released_if_freed_bytes, exact)}", hanging=5)
    if pin.first_bytes:
        page.line(f"   - begins with {pin.first_bytes}", hanging=5)
    _told_referrers(page, pin, source)


def _gain(released_bytes: int | None, exact: bool) -> str:
    if released_bytes is None:
        return "free() of it alone would reach that memory"
    if not released_bytes:
        return "free() of it alone would release nothing"
    return f"free() of it alone would release {size(released_bytes, exact)}"


def _told_referrers(page: Page, pin: Pin, source: str) -> None:
    if pin.referrers is None or pin.referrer_count is None:
        return
    if not pin.referrers:
        nobody = "nothing in writable memory points at it: perhaps a leak"
        if source not in WHOLE:
            nobody = "nothing in the memory that was searched points at it"
        page.line(f"   - {nobody}", hanging=5)
        return
    told = [_referrer(referrer) for referrer in pin.referrers]
    more = pin.referrer_count - len(told)
    if more > 0:
        told.append(f"and {plural(more, 'word')} more")
    for text in told:
        page.line(f"   < {text}", hanging=5)


def _referrer(referrer: Referrer) -> str:
    text = clean(referrer.where, 80)
    if not referrer.to_start:
        text += " (into the middle)"
    if referrer.through:
        names = " and ".join(clean(name, 60) for name in referrer.through)
        text += f", which {names} {'points' if len(referrer.through) == 1 else 'point'} at"
    return text


def _classes(page: Page, data: PinsData) -> None:
    rows = data.size_classes if page.look.rows is None else data.size_classes[: page.look.rows]
    if not rows:
        page.line("No page holds free memory beside live chunks of one size alone.")
        return
    unit = unit_for(sum(row.pinned_bytes for row in data.size_classes), page.look.exact_bytes)
    page.heading(f"Sizes whose live chunks alone hold pages with free memory ({unit.name})")
    names = (
        str(row.size_bytes)
        if row.size_bytes == row.largest_bytes
        else f"{row.size_bytes}–{row.largest_bytes}"
        for row in rows
    )
    columns = [
        Column("chunk size", tuple(names), "all", left=True),
        Column(
            "live chunks",
            tuple(str(row.live_count) for row in rows),
            str(sum(row.live_count for row in data.size_classes)),
        ),
        Column(
            "free beside them",
            tuple(unit.cell(row.pinned_bytes) for row in rows),
            unit.cell(sum(row.pinned_bytes for row in data.size_classes)),
        ),
    ]
    page.table(fit(columns, page.look.width))
    others = [
        (data.mixed_bytes, "on pages with live chunks of several sizes"),
        (data.parked_bytes, "on pages that only thread caches or fastbins hold"),
    ]
    told = [f"{unit.cell(amount)} {where}" for amount, where in others if amount]
    if told:
        page.line(f"Besides: {'; '.join(told)}.", "dim")
