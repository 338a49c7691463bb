"""`explain --html`: what is on the page, that it needs nothing else, and that nothing of a target's
making can become a part of it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import random
import re
import zlib
from html.parser import HTMLParser

import pytest
from unit import reports
from unit.situations import MIB, arena, holding, situation

from allocscope.causes.explanation import explain as explained
from allocscope.cli.html_file import page_files
from allocscope.model.ledger import Explanation, OutsideRss
from allocscope.model.page_map import FREE, HELD, LAZY, TRIMMABLE, HeapPages, PageMap
from allocscope.model.report import Caveat, Report
from allocscope.model.situation import Situation
from allocscope.render.html import page
from allocscope.render.markup import Cell, Heading, Html, prose, table, tag, text

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\x1b[2J\u202e"
PAGES = PageMap(
    (
        HeapPages(0, 0x5600_0000_0000, bytes([HELD, HELD + 15, TRIMMABLE, FREE])),
        HeapPages(1, 0x7F00_0000_0000, bytes([HELD + 3, LAZY])),
    ),
    lazy_known=True,
)
FOUND = situation(
    arena(0, live=20, shared_pages=50, tcache=2),
    arena(1, live=3, top=1),
    holdings=(holding("file-private", 10, path="/usr/lib/libx.so.1"),),
    outside=(OutsideRss("page-tables", MIB, "VmPTE in /proc/PID/status"),),
    pages=PAGES,
)
VOID = {"meta", "br", "img", "link", "base"}


class Read(HTMLParser):
    """What a browser would see: elements with their attributes, and the text in each."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for name in self._open:
            self.texts[name][-1] += data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.elements if name == tag]


def made(
    found: Situation = FOUND, caveats: tuple[Caveat, ...] = (), data: Explanation | None = None
) -> str:
    plain = reports.report()
    report = Report(
        dataclasses.replace(plain.process, comm=found.process.comm, exe=found.process.exe),
        plain.libc,
        plain.allocator,
        plain.method,
        data or explained(found),
        caveats,
    )
    return page(report, found, page_files(), 1_800_000_000.0)


def test_everything_is_on_the_page() -> None:
    read = Read(made(caveats=(Caveat("drift", "4096 bytes of RSS came or went", partial=True),)))
    assert read.texts["h2"] == [
        "RSS, every byte in one row",
        "Causes",
        "The heaps, page by page",
        "Arenas",
        "Size classes",
        "Outside RSS",
        "Settings in force",
    ]
    data = explained(FOUND)
    assert data.verdict in read.texts["p"]
    whole = read.texts["body"][0]
    for said in (
        "partial: 4096 bytes of RSS came or went",
        "Live chunks scattered over pages that are otherwise free50.0 MiB, 58 % of RSS",
        "page-tables1.0 MiBVmPTE in /proc/PID/status",
        "allocscope pins PID names the live chunks",
        "2027-01-15 08:00:00 UTC",
        "6 pages of 4 KiB in 2 heaps of 2 arenas",
    ):
        assert said in whole


def test_the_bar_is_as_long_as_its_rows_together() -> None:
    bars = Read(made()).attributes("rect")
    widths = [float(bar["width"] or "") for bar in bars]
    rows = [row.resident_bytes for row in FOUND.ledger.rows if row.resident_bytes]
    assert widths == pytest.approx([1000 * size / sum(rows) for size in rows], abs=0.01)
    assert float(bars[-1]["x"] or "") + widths[-1] == pytest.approx(1000, abs=0.1)


def test_rows_sort_by_what_they_mean_not_by_what_they_show() -> None:
    cells = Read(made()).attributes("td")
    numbers = {cell["data-sort"] for cell in cells if "data-sort" in cell}
    assert {str(one.figures.resident_bytes) for one in FOUND.heap.arenas} <= numbers


def test_the_map_arrives_byte_by_byte() -> None:
    source = made()
    [packed] = re.findall(r'<script type="application/json" id="pages">(.*?)</script>', source)
    told = json.loads(packed)
    assert told["page_bytes"] == 4096
    assert told["heaps"] == [[0, "560000000000", 4], [1, "7f0000000000", 2]]
    cells = zlib.decompress(base64.b64decode(told["cells"]))
    assert cells == b"".join(heap.cells for heap in PAGES.heaps)


def test_the_map_is_told_in_a_table_too() -> None:
    row = next(
        row
        for row in re.findall(r"<tr>(.*?)</tr>", made())
        if re.search(r"<td[^>]*>0x560000000000</td>", row)
    )
    shown = re.findall(r"<td[^>]*>([^<]*)</td>", row)
    assert shown == ["0", "0x560000000000", "4", "2", "1", "1", "0", "0", "0", "0"]


@pytest.mark.parametrize("pages", [None, PageMap((), lazy_known=True)])
def test_without_pages_there_is_no_map(pages: PageMap | None) -> None:
    read = Read(made(dataclasses.replace(FOUND, pages=pages)))
    assert "The heaps, page by page" not in read.texts["h2"]
    assert read.attributes("canvas") == []
    assert len(read.texts["script"]) == 1


def test_what_is_not_known_of_pages_is_said() -> None:
    unseen = dataclasses.replace(PAGES, lazy_known=False)
    assert "were not seen one by one" not in made()
    assert "were not seen one by one" in made(dataclasses.replace(FOUND, pages=unseen))


def test_the_page_needs_nothing_else_and_runs_one_script() -> None:
    source, files = made(), page_files()
    read = Read(source)
    names = {name for _, attributes in read.elements for name in attributes}
    assert not names & {"src", "href", "srcset", "action", "style", "data"}
    assert not any(name.startswith("on") for name in names)
    assert "://" not in files.script + files.style
    assert "url(" not in files.style
    assert "innerHTML" not in files.script
    [policy] = [
        meta["content"] or ""
        for meta in read.attributes("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; ")
    run = [script for script in read.attributes("script") if "type" not in script]
    assert len(run) == 1
    for kind, text_ in (("script", files.script), ("style", files.style)):
        digest = base64.b64encode(hashlib.sha256(text_.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
        assert f"<{kind}>{text_}</{kind}>" in source


def test_hostile_names_stay_text() -> None:
    data = explained(FOUND)
    cause = dataclasses.replace(data.causes[0], evidence=(HOSTILE,), title=HOSTILE)
    remedy = dataclasses.replace(cause.remedies[0], action=HOSTILE, cost=HOSTILE)
    cause = dataclasses.replace(cause, remedies=(remedy,))
    rows = tuple(dataclasses.replace(row, evidence=(HOSTILE,)) for row in data.ledger)
    hostile = dataclasses.replace(
        data,
        verdict=HOSTILE,
        causes=(cause, *data.causes[1:]),
        ledger=rows,
        outside_rss=(OutsideRss("sockets", 1, HOSTILE),),
    )
    process = dataclasses.replace(FOUND.process, comm=HOSTILE, exe=f"/srv/{HOSTILE}")
    threshold = dataclasses.replace(
        FOUND.heap.settings.mmap_threshold_bytes, origin="environment", evidence=HOSTILE
    )
    settings = dataclasses.replace(FOUND.heap.settings, mmap_threshold_bytes=threshold)
    found = dataclasses.replace(
        FOUND, process=process, heap=dataclasses.replace(FOUND.heap, settings=settings)
    )
    caveats = (Caveat("note", HOSTILE),)
    source = made(found, caveats, hostile)
    harmless = [name for name, _ in Read(made(caveats=(Caveat("note", "x"),))).elements]
    read = Read(source)
    names = [name for name, _ in read.elements]
    assert names.count("script") == harmless.count("script") == 2
    assert names.count("img") == 0
    assert not any(key.startswith("on") for _, attrs in read.elements for key in attrs)
    assert "<script>alert" not in source
    assert "\x1b" not in source
    assert "\u202e" not in source
    shown = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\\x1b[2J\\u202e"
    assert read.texts["body"][0].count(shown) >= 8
    assert read.texts["p"].count(shown) == 1
    assert shown in read.texts["title"][0]


def test_a_heap_of_a_gibibyte_makes_a_small_page() -> None:
    """Random pages, which no packing makes smaller."""
    chance = random.Random(5)
    cells = bytes(chance.choice(range(HELD, HELD + 16)) for _ in range(1 << 18))
    pages = PageMap((HeapPages(0, 0x5600_0000_0000, cells),), lazy_known=True)
    source = made(dataclasses.replace(FOUND, pages=pages))
    assert len(source.encode()) < 400_000


# ---- markup ----


def test_text_is_escaped_once_and_in_attributes_too() -> None:
    assert text("<&\"'>") == Html("&lt;&amp;&quot;&#x27;&gt;")
    assert tag("b", tag("i", "<"), class_='a"b', data_sort=1).source == (
        '<b class="a&quot;b" data-sort="1"><i>&lt;</i></b>'
    )


def test_commands_stand_in_code() -> None:
    assert prose("run `a <b>` now").source == "run <code>a &lt;b&gt;</code> now"


def test_a_table_without_rows_has_its_headings() -> None:
    source = table("none", [Heading("a"), Heading("b", "hint")], []).source
    assert '<th scope="col">a</th>' in source
    assert "<tbody></tbody>" in source


def test_columns_of_numbers_stand_right_but_for_the_first() -> None:
    source = table("t", [Heading("a"), Heading("b")], [[Cell("1", 1), Cell("2", 2)]]).source
    assert '<td data-sort="1">1</td><td class="n" data-sort="2">2</td>' in source
