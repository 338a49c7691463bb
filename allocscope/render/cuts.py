"""The four cuts through one reading: a row per arena, per heap, per chunk size, per thread.

Rules: what a reader acts on (resident, free, trimmable) never gives way; columns of bad news
(unread, residue, swapped) appear as soon as they are not zero. Sizes ascend, so that they read as
a histogram; all else is by falling weight.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from allocscope.model.heap import Arena, ArenasData, Heap, SizeClass, ThreadCache
from allocscope.render.figures import Cut, Figure
from allocscope.render.sizes import size_range
from allocscope.render.text import clean

UNSETTLED = "!"
"""Marks an arena that could not be validated."""


def by_arena(data: ArenasData) -> Cut[Arena]:
    figures: list[Figure[Arena]] = [
        Figure("arena", _arena_name, "name"),
        Figure("threads", lambda a: a.attached_threads, "count", gives_way=6),
        Figure("heaps", lambda a: len(a.heaps), "count", gives_way=7),
        Figure("resident", lambda a: a.figures.resident_bytes),
        Figure("swapped", lambda a: a.figures.swapped_bytes, gives_way=3, if_any=True),
        Figure("free res", lambda a: a.figures.free_resident_bytes),
        Figure("trimmable", lambda a: a.figures.trimmable_bytes),
        Figure("pinned", lambda a: a.figures.pinned_bytes, gives_way=1),
        Figure("frag", _fragmentation, "share", gives_way=2),
        Figure("system", lambda a: a.figures.system_bytes, gives_way=4),
        Figure("live", lambda a: a.figures.live_bytes),
        Figure("cached", lambda a: a.figures.tcache_bytes + a.figures.fastbin_bytes, gives_way=5),
        Figure("bins", lambda a: a.figures.bin_bytes, gives_way=8),
        Figure("top", lambda a: a.figures.top_bytes, gives_way=9),
        Figure("unread", lambda a: a.figures.unread_bytes, if_any=True),
        Figure("residue", lambda a: a.figures.residue_bytes, if_any=True),
    ]
    return Cut("Arenas, the most resident first", data.arenas, figures, _resident)


def _resident(arena: Arena) -> int:
    return arena.figures.resident_bytes


def _arena_name(arena: Arena) -> str:
    name = f"{arena.index} main" if arena.is_main else str(arena.index)
    return f"{name} {UNSETTLED}" if arena.consistency == "partial" else name


def _fragmentation(arena: Arena) -> tuple[int, int]:
    return arena.figures.free_resident_bytes, arena.figures.resident_bytes


def by_heap(data: ArenasData) -> Cut[tuple[Arena, Heap]]:
    Row = tuple[Arena, Heap]
    figures: list[Figure[Row]] = [
        Figure("heap", lambda r: f"{r[1].start:#x}{' top' * r[1].holds_top}", "name"),
        Figure("arena", lambda r: str(r[0].index), "count"),
        Figure("reserved", lambda r: r[1].reserved_bytes, gives_way=4),
        Figure("in use", lambda r: r[1].end - r[1].start, gives_way=3),
        Figure("live", lambda r: r[1].live_bytes),
        Figure("chunks", lambda r: r[1].live_count, "count", gives_way=1),
        Figure("free", lambda r: r[1].free_bytes, gives_way=2),
        Figure("resident", lambda r: r[1].resident_bytes),
        Figure("swapped", lambda r: r[1].swapped_bytes, if_any=True),
        Figure("huge", lambda r: r[1].huge_bytes, gives_way=5, if_any=True),
        Figure("free res", lambda r: r[1].free_resident_bytes),
        Figure("trimmable", lambda r: r[1].trimmable_bytes),
    ]
    rows = [(arena, heap) for arena in data.arenas for heap in arena.heaps]
    return Cut("Heaps, the most resident first", rows, figures, lambda r: r[1].resident_bytes)


def by_size(data: ArenasData) -> Cut[SizeClass]:
    figures: list[Figure[SizeClass]] = [
        Figure("chunk size", size_range, "name"),
        Figure("live", lambda c: c.live_bytes),
        Figure("n live", lambda c: c.live_count, "count"),
        Figure("tcache", lambda c: c.tcache_bytes, gives_way=2),
        Figure("n tcache", lambda c: c.tcache_count, "count", gives_way=4),
        Figure("fastbin", lambda c: c.fastbin_bytes, gives_way=1),
        Figure("n fastbin", lambda c: c.fastbin_count, "count", gives_way=5),
        Figure("bins", lambda c: c.bin_bytes),
        Figure("n bins", lambda c: c.bin_count, "count", gives_way=3),
        Figure("pages held", lambda c: c.pages_held, "count", adds_up=False),
    ]
    return Cut(
        "Chunks by size, headers included",
        data.size_classes,
        figures,
        _class_bytes,
        order=lambda c: c.min_bytes,
    )


def _class_bytes(row: SizeClass) -> int:
    return row.live_bytes + row.tcache_bytes + row.fastbin_bytes + row.bin_bytes


def by_thread(data: ArenasData) -> Cut[ThreadCache]:
    figures: list[Figure[ThreadCache]] = [
        Figure("thread", lambda t: str(t.tid), "name"),
        Figure("name", lambda t: clean(t.name, 20), "name"),
        Figure("arena", _thread_arena, "count", adds_up=False),
        Figure("cached", lambda t: t.tcache_bytes),
        Figure("chunks", lambda t: t.tcache_count, "count"),
        Figure("tcache at", _thread_cache, "count", gives_way=1, adds_up=False),
    ]
    return Cut("Threads, the fullest tcache first", data.threads, figures, lambda t: t.tcache_bytes)


def _thread_arena(thread: ThreadCache) -> str:
    return "?" if thread.arena_index is None else str(thread.arena_index)


def _thread_cache(thread: ThreadCache) -> str:
    return "none" if thread.tcache_address is None else f"{thread.tcache_address:#x}"


LEGEND = {
    "free res": "free, yet in RSS",
    "trimmable": "malloc_trim(0) would release it",
    "pinned": "it would not: a live chunk shares the page",
    "frag": "free res / resident",
    "system": "obtained from the kernel",
    "live": "held by the program",
    "cached": "in tcaches and fastbins",
    "unread": "could not be walked",
    "residue": "does not add up",
}
"""What the columns of the table of arenas mean, for those that are shown."""

CUTS: dict[str, Callable[[ArenasData], Cut[Any]]] = {
    "": by_arena,
    "heap": by_heap,
    "size": by_size,
    "thread": by_thread,
}
"""The cuts by the name that --by takes; "" is the table of arenas."""
