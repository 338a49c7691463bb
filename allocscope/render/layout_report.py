"""``doctor --layout`` for people: which rows fit, where the others fail, and what the data is like.

Rule: each row of the table on a line of its own, so that two reports can be compared line by line.
"""

from __future__ import annotations

from collections.abc import Iterator

from allocscope.model.layout_report import LayoutReport, LibraryReport, RowReport, Rule, Words
from allocscope.render.page import Look, Page
from allocscope.render.text import clean, plural


def layout_report(report: LayoutReport, look: Look) -> str:
    """The whole report, ended by a newline."""
    page = Page(look)
    for number, library in enumerate(report.libraries):
        if number:
            page.blank()
        _library(page, report, library)
    page.blank()
    page.line(
        "Offsets count from where the library begins in memory. No address and nothing that the "
        "program stored is in this report; --json holds the same.",
        "dim",
    )
    return page.text()


def _library(page: Page, report: LayoutReport, library: LibraryReport) -> None:
    page.heading(f"glibc {clean(library.version or 'of unknown version')}")
    named = (
        ("banner", library.banner or "none found"),
        ("build-id", library.build_id or "none"),
        ("path", library.path + (", a static program" if library.static else "")),
        ("known by", library.evidence),
        ("threads", str(report.thread_count)),
    )
    for name, text in named:
        page.line(f"  {name:9} {clean(text)}", hanging=12)
    for part in library.parts:
        sort = "" if part.from_file else ", not from the file"
        page.line(f"  {part.at:#9x} {part.permissions} {part.size_bytes:#x} bytes{sort}")
    page.blank()
    fitting = [row for row in library.rows if row.fits]
    page.heading(_verdict(fitting))
    for row in library.rows:
        _row(page, row)
    page.blank()
    page.heading("What is in its data")
    for words in library.words:
        page.line(f"  {words.at:#9x}  {_words(words)}", hanging=13)


def _verdict(fitting: list[RowReport]) -> str:
    if not fitting:
        return "No row of the layout table fits"
    return f"{plural(len(fitting), 'row')} of the layout table {_fit(fitting)}"


def _fit(fitting: list[RowReport]) -> str:
    return "fits" if len(fitting) == 1 else "fit"


def _row(page: Page, row: RowReport) -> None:
    span = " to ".join(dict.fromkeys((*row.versions[:1], *row.versions[-1:])))
    where = ", ".join(_where(row))
    name = f"{row.layout} ({span or 'libc_malloc_debug'})"
    if row.fits:
        page.line(f"  fits  {name}: {where}", "green", hanging=8)
        return
    page.line(f"  not   {name}{': ' if where else ''}{where}", hanging=8)
    broken = [rule for rule in row.rules if not rule.held]
    held = [rule.name for rule in row.rules if rule.held]
    for rule in broken:
        page.line(f"          {_rule(rule)}", hanging=12)
    if held:
        page.line(f"          holds: {', '.join(held)}", "dim", hanging=12)


def _where(row: RowReport) -> Iterator[str]:
    if row.main_arena is not None:
        yield f"main_arena {row.main_arena:#x}"
    if row.mp is not None:
        yield f"mp_ {row.mp:#x}"


def _rule(rule: Rule) -> str:
    at = "" if rule.at is None else f" at +{rule.at:#x}"
    return f"fails: {rule.name}{at}: {clean(rule.found)}"


def _words(words: Words) -> str:
    """One row of words that are alike."""
    if words.kind == "empty bin":
        return plural(words.count // 2, "empty bin")
    text = words.kind
    if words.target is not None:
        text = f"pointer to {words.target}{'' if words.offset is None else f' + {words.offset:#x}'}"
    elif words.numbers:
        text = f"{words.kind} {', '.join(map(hex, words.numbers))}"
    return text if words.count == 1 else f"{text}, {words.count} times"
