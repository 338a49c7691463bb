"""The heaps on the HTML page: the map of pages with its table, the arenas, the size classes.

The map travels as the walk told it, one byte for a page, all heaps one behind the other, packed
with zlib: 1 GiB of pages is at most 350 KB. The script unpacks and draws it; what it draws stands
in a table too, for those who see no picture.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence

from allocscope.model.heap import Arena, ArenasData, SizeClass
from allocscope.model.page_map import (
    ABSENT,
    FREE,
    LAZY,
    OTHER,
    PAGE,
    SWAPPED,
    TRIMMABLE,
    HeapPages,
    PageMap,
)
from allocscope.render.markup import NOTHING, Cell, Heading, Html, tag
from allocscope.render.markup import table as table_of
from allocscope.render.text import Unit, plural, unit_for

STATES: tuple[tuple[int, str, str], ...] = (
    (TRIMMABLE, "trimmable", "free: malloc_trim would release it"),
    (FREE, "free", "free, and malloc_trim leaves it: tops of thread arenas, cached chunks"),
    (LAZY, "lazy", "lazily freed: the kernel may take it"),
    (SWAPPED, "swapped", "swapped out"),
    (ABSENT, "absent", "not in memory"),
    (OTHER, "other", "none of the chunks that were read"),
)
"""Cell, class in the style sheet, and what it means."""


def map_section(pages: PageMap, heap: ArenasData) -> Html:
    """The canvas with its legend, the data, and the same as a table."""
    count = sum(len(one.cells) for one in pages.heaps)
    buttons = [
        tag("button", label, type="button", data_zoom=name, aria_label=said)
        for name, label, said in (
            ("in", "+", "zoom in"),
            ("out", "−", "zoom out"),
            ("all", "all", "show everything"),
        )
    ]
    canvas = tag(
        "canvas",
        tabindex=0,
        role="img",
        aria_label="Map of the heaps' pages; the table below tells the same in figures",
    )
    note = NOTHING
    if not pages.lazy_known:
        note = tag(
            "p",
            "There may be lazily freed pages, which were not seen one by one (that needs a running "
            "process and CAP_SYS_ADMIN): on the map they look like any others.",
        )
    return tag(
        "section",
        tag("h2", "The heaps, page by page"),
        tag(
            "p",
            f"{plural(count, 'page')} of 4 KiB in {plural(len(pages.heaps), 'heap')} of "
            f"{plural(len(heap.arenas), 'arena')}, each heap from its first page on, row by row. "
            "Wheel or + and − zoom, dragging or arrow keys move, 0 shows everything.",
        ),
        note,
        _legend(pages),
        tag(
            "div",
            canvas,
            tag("p", "The map is drawn by a script, which does not run here.", class_="told"),
            tag("div", *buttons, class_="zoom"),
            class_="map",
        ),
        tag("details", tag("summary", "The map as a table"), _pages_table(pages.heaps)),
        tag("script", Html(_packed(pages)), type="application/json", id="pages"),
    )


def _packed(pages: PageMap) -> str:
    """Numbers and base64 only: nothing of the target's own making."""
    cells = b"".join(one.cells for one in pages.heaps)
    return json.dumps(
        {
            "page_bytes": PAGE,
            "heaps": [[one.arena_index, f"{one.start:x}", len(one.cells)] for one in pages.heaps],
            "cells": base64.b64encode(zlib.compress(cells, 9)).decode(),
        }
    )


def _legend(pages: PageMap) -> Html:
    there = [state for state in STATES if any(one.page_count(state[0]) for one in pages.heaps)]
    ramp = tag(
        "li",
        tag("i", class_="swatch ramp"),
        " held, from a sixteenth of the page to all of it",
    )
    others = [tag("li", tag("i", class_=f"swatch {name}"), " ", said) for _, name, said in there]
    return tag("ul", ramp, *others, class_="legend")


def _pages_table(heaps: Sequence[HeapPages]) -> Html:
    headings = [Heading("arena"), Heading("first page"), Heading("pages"), Heading("held")]
    headings += [Heading(name, said) for _, name, said in STATES]
    rows = [
        [
            Cell(str(one.arena_index), one.arena_index),
            Cell(f"{one.start:#x}", one.start),
            _count(len(one.cells)),
            _count(one.held_page_count),
            *(_count(one.page_count(cell)) for cell, _, _ in STATES),
        ]
        for one in heaps
    ]
    return table_of("Pages of each heap by what they are used for", headings, rows)


def _count(number: int) -> Cell:
    return Cell(str(number), number)


# ---- arenas and size classes ----


def arenas_section(heap: ArenasData) -> Html:
    """One row for each arena, the most resident first."""
    largest = max((arena.figures.resident_bytes for arena in heap.arenas), default=0)
    unit = unit_for(largest, False)
    ordered = sorted(heap.arenas, key=lambda arena: -arena.figures.resident_bytes)
    headings = [
        Heading("arena"),
        Heading("threads", "threads attached to it"),
        Heading("heaps"),
        Heading("resident", "", "descending"),
        Heading("free res", "free, yet in RSS"),
        Heading("trimmable", "malloc_trim(0) would release it"),
        Heading("pinned", "it would not: a live chunk shares the page"),
        Heading("frag", "free res / resident"),
        Heading("system", "obtained from the kernel"),
        Heading("live", "held by the program"),
        Heading("cached", "in thread caches and fastbins"),
        Heading("bins"),
    ]
    rows = [_arena(arena, unit) for arena in ordered]
    return tag(
        "section",
        tag("h2", "Arenas"),
        table_of(f"{plural(len(rows), 'arena')}, sizes in {unit.name}", headings, rows),
    )


def _arena(arena: Arena, unit: Unit) -> list[Cell]:
    figures = arena.figures
    unsettled = " !" if arena.consistency == "partial" else ""
    threads = arena.attached_threads
    ratio = figures.fragmentation_ratio
    sizes = [
        Cell(unit.cell(amount), amount)
        for amount in (
            figures.resident_bytes,
            figures.free_resident_bytes,
            figures.trimmable_bytes,
            figures.pinned_bytes,
            figures.system_bytes,
            figures.live_bytes,
            figures.tcache_bytes + figures.fastbin_bytes,
            figures.bin_bytes,
        )
    ]
    return [
        Cell(f"{arena.index}{' main' if arena.is_main else ''}{unsettled}", arena.index),
        Cell("?" if threads is None else str(threads), -1 if threads is None else threads),
        _count(len(arena.heaps)),
        *sizes[:4],
        Cell(f"{100 * ratio:.0f} %", round(ratio, 6)),
        *sizes[4:],
    ]


def classes_section(heap: ArenasData) -> Html:
    """One row for each class of chunk sizes that there is."""
    if not heap.size_classes:
        return NOTHING
    headings = [
        Heading("chunk size", "header included, in bytes", "ascending"),
        Heading("live"),
        Heading("live KiB"),
        Heading("in tcaches"),
        Heading("in fastbins"),
        Heading("in bins"),
        Heading("free KiB", "in thread caches, fastbins and bins"),
        Heading("pages held", "resident pages with a live one of them"),
    ]
    rows = [_size_class(one) for one in heap.size_classes]
    return tag(
        "section",
        tag("h2", "Size classes"),
        tag(
            "div",
            table_of("All arenas together, chunks by size", headings, rows),
            class_="tall",
        ),
    )


def _size_class(one: SizeClass) -> list[Cell]:
    free = one.tcache_bytes + one.fastbin_bytes + one.bin_bytes
    exact = one.min_bytes == one.max_bytes
    name = str(one.min_bytes) if exact else f"{one.min_bytes}–{one.max_bytes}"
    return [
        Cell(name, one.min_bytes),
        _count(one.live_count),
        Cell(f"{one.live_bytes / 1024:.1f}", one.live_bytes),
        _count(one.tcache_count),
        _count(one.fastbin_count),
        _count(one.bin_count),
        Cell(f"{free / 1024:.1f}", free),
        _count(one.pages_held),
    ]
