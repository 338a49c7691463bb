"""``explain --html``: the whole answer as one HTML page that needs nothing else.

Strategy: everything but the map of pages is written out here and can be read without scripts; the
page's one script (page_files/explain.js) draws the map and sorts tables. Rules: every string goes
through markup.text; the page may load nothing and run nothing but that one script, which its
Content-Security-Policy names by hash, so that even a fault in the escaping could run no other.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import Any

from allocscope.immutable import immutable
from allocscope.model.heap import ArenasData
from allocscope.model.history import History
from allocscope.model.ledger import Cause, Explanation, LedgerRow, Remedy
from allocscope.model.page_map import PageMap
from allocscope.model.report import Caveat, Report
from allocscope.model.situation import Situation
from allocscope.render import html_heaps, sentences
from allocscope.render.explain import WELL_KNOWN, amount, matters, share
from allocscope.render.html_series import series_section
from allocscope.render.markup import NOTHING, Cell, Heading, Html, Part, join, prose, table, tag
from allocscope.render.text import Unit, signed_size, size, unit_for
from allocscope.version import VERSION


@immutable
class PageFiles:
    """The style sheet and the script of the page."""

    style: str
    script: str


def page(
    report: Report[Explanation],
    found: Situation,
    files: PageFiles,
    now: float,
    history: History | None = None,
) -> str:
    """The whole page. ``found``: what the explanation rests on; ``now``: seconds since 1970;
    ``history``: of a recording with several samples."""
    data = report.data
    body = [
        head(report, data.verdict, _figures(data), now),
        caveats_section(report.caveats),
        _ledger(data),
        NOTHING if history is None else series_section(history),
        causes_section(data.causes, data.rss_bytes),
        map_section(found.pages, found.heap),
        html_heaps.arenas_section(found.heap),
        html_heaps.classes_section(found.heap),
        _outside(data),
        settings_section(found.heap),
        footer(report),
    ]
    return document(report, body, files)


def document(report: Report[Any], body: Iterable[Html], files: PageFiles) -> str:
    """The page around its sections."""
    title = f"{report.process.comm} (pid {report.process.pid}): where its memory is"
    parts = [
        Html('<meta charset="utf-8">'),
        Html(
            '<meta http-equiv="Content-Security-Policy" content="'
            f"default-src 'none'; style-src '{_hash(files.style)}'; "
            f"script-src '{_hash(files.script)}'\">"
        ),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="color-scheme" content="light dark">'),
        tag("title", title),
        tag("style", Html(files.style)),
    ]
    whole = tag(
        "html",
        tag("head", *parts),
        tag("body", tag("main", *body), tag("script", Html(files.script))),
        lang="en",
    )
    return f"<!DOCTYPE html>\n{whole.source}\n"


def map_section(pages: PageMap | None, heap: ArenasData) -> Html:
    if pages is None or not any(one.cells for one in pages.heaps):
        return NOTHING
    return html_heaps.map_section(pages, heap)


def footer(report: Report[Any]) -> Html:
    how = sentences.method(report.method)
    return tag("footer", f"allocscope {VERSION}. {_sentence(how)}")


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "."


# ---- the head ----


def head(report: Report[Any], verdict: str, figures: Iterable[tuple[str, str]], now: float) -> Html:
    """Of a recording the identity says when it was; a core does not tell."""
    facts = [tag("li", fact) for fact in sentences.identity(report)]
    if report.captured_at is None and report.method.source != sentences.FROM_CORE:
        facts.append(tag("li", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))))
    return tag(
        "header",
        tag("h1", "Where the memory is"),
        tag("p", verdict, class_="verdict"),
        tag("ul", *facts, class_="facts"),
        tag("dl", *(_figure(name, told) for name, told in figures), class_="figures"),
    )


def _figures(data: Explanation) -> Iterable[tuple[str, str]]:
    yield "RSS", size(data.rss_bytes)
    if data.peak_rss_bytes is not None:
        yield "peak", size(data.peak_rss_bytes)
    if data.footprint_bytes is not None:
        yield "footprint", size(data.footprint_bytes)
    if data.memory_limit_bytes is not None:
        yield "cgroup limit", size(data.memory_limit_bytes)
        yield "left below it", size(data.memory_headroom_bytes)
    yield "drift", signed_size(data.drift_bytes) if data.drift_bytes else "none"


def _figure(name: str, told: str) -> Html:
    return tag("div", tag("dt", name), tag("dd", told))


def caveats_section(caveats: Iterable[Caveat]) -> Html:
    told = [
        tag("li", tag("strong", "partial: " if caveat.partial else "note: "), caveat.message)
        for caveat in sorted(caveats, key=lambda c: not c.partial)
    ]
    return tag("ul", *told, class_="caveats") if told else NOTHING


# ---- the ledger ----


def _ledger(data: Explanation) -> Html:
    rows = [row for row in data.ledger if row.resident_bytes]
    unit = unit_for(data.rss_bytes, False)
    total = sum(row.resident_bytes for row in rows)
    headings = [Heading("memory"), Heading(unit.name), Heading("of RSS")]
    for name in ("swapped", "lazyfree"):
        if _any(rows, f"{name}_bytes"):
            headings.append(Heading(name))
    cells = [_ledger_cells(row, rows, unit, data.rss_bytes) for row in rows]
    last = [Cell("all rows"), Cell(unit.cell(total), total), Cell(share(total, data.rss_bytes), 1)]
    last += [Cell("", 0)] * (len(headings) - len(last))
    return tag(
        "section",
        tag("h2", "RSS, every byte in one row"),
        _bar(rows, total),
        table("The ledger; a row opens to what says so", headings, [*cells, last], foot=1),
    )


def _any(rows: Iterable[LedgerRow], name: str) -> bool:
    return any(getattr(row, name) for row in rows)


def _ledger_cells(
    row: LedgerRow, rows: Iterable[LedgerRow], unit: Unit, rss_bytes: int
) -> list[Cell]:
    evidence = [tag("li", said) for said in row.evidence]
    label: Part = tag(
        "details",
        tag("summary", tag("i", class_=f"swatch {row.key}"), " ", row.label),
        tag("ul", *evidence),
    )
    cells = [
        Cell(label),
        Cell(unit.cell(row.resident_bytes), row.resident_bytes),
        Cell(share(row.resident_bytes, rss_bytes), row.resident_bytes / max(rss_bytes, 1)),
    ]
    for name in ("swapped_bytes", "lazyfree_bytes"):
        if _any(rows, name):
            told = getattr(row, name)
            cells.append(Cell(unit.cell(told), -1 if told is None else told))
    return cells


def _bar(rows: Iterable[LedgerRow], total: int) -> Html:
    """One rectangle for each row, in the ledger's order; no script and no inline style needed."""
    parts = []
    at = 0.0
    for row in rows:
        wide = 1000 * row.resident_bytes / max(total, 1)
        told = f"{row.label}: {size(row.resident_bytes)}"
        parts.append(
            tag(
                "rect",
                tag("title", told),
                x=f"{at:.2f}",
                y=0,
                width=f"{wide:.2f}",
                height=40,
                class_=row.key,
            )
        )
        at += wide
    return tag(
        "svg",
        *parts,
        viewBox="0 0 1000 40",
        preserveAspectRatio="none",
        class_="bar",
        role="img",
        aria_label="RSS as a stacked bar; the table below has its figures",
    )


# ---- causes ----


def causes_section(causes: Sequence[Cause], rss_bytes: int) -> Html:
    """``rss_bytes``: as for the terminal's (render.explain)."""
    if not causes:
        return NOTHING
    told = [cause for cause in causes if matters(cause, rss_bytes)]
    smaller = [cause for cause in causes if cause not in told]
    rest = NOTHING
    if smaller:
        rows = [tag("li", f"{cause.title}: {amount(cause)}") for cause in smaller]
        rest = tag("details", tag("summary", "Smaller ones"), tag("ul", *rows))
    return tag("section", tag("h2", "Causes"), *(_cause(cause) for cause in told), rest)


def _cause(cause: Cause) -> Html:
    head: list[Part] = [cause.title]
    if cause.bytes:
        head.append(tag("span", amount(cause), class_="amount"))
    evidence = [tag("li", prose(said)) for said in cause.evidence]
    if cause.confidence != "measured":
        evidence.append(tag("li", WELL_KNOWN[cause.confidence]))
    remedies = [_remedy(remedy) for remedy in cause.remedies]
    return tag(
        "article",
        tag("h3", *head),
        tag("ul", *evidence),
        join([tag("h4", "What can be done"), tag("ul", *remedies)]) if remedies else NOTHING,
    )


def _remedy(remedy: Remedy) -> Html:
    gain = "unknown"
    if remedy.gain_bytes is not None:
        gain = f"{size(remedy.gain_bytes)} ({remedy.gain_is})"
    return tag(
        "li", prose(remedy.action), tag("p", f"Gain: {gain}. Cost: {remedy.cost}.", class_="gain")
    )


# ---- what else there is ----


def _outside(data: Explanation) -> Html:
    if not data.outside_rss:
        return NOTHING
    rows = [
        [Cell(fact.key), Cell(size(fact.bytes), fact.bytes), Cell(fact.evidence)]
        for fact in data.outside_rss
    ]
    headings = [Heading("memory"), Heading("size"), Heading("from")]
    return tag(
        "section",
        tag("h2", "Outside RSS"),
        table("Memory that the process causes and that no RSS counts", headings, rows),
    )


def settings_section(heap: ArenasData) -> Html:
    lines = list(sentences.settings_lines(heap.settings))
    headings = [Heading("setting"), Heading("value"), Heading("from")]
    if not any(origin for _, _, origin in lines):
        headings.pop()
    rows = [[Cell(told) for told in line[: len(headings)]] for line in lines]
    return tag(
        "section",
        tag("h2", "Settings in force"),
        table("As read from glibc's own variables", headings, rows),
    )
