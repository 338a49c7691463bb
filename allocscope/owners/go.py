"""Go's heap: arenas of 64 MiB, which the runtime finds through a table.

Strategy: the runtime looks up an address in a table with one word for each 64 MiB of address space
(mheap.arenas), which leads to the arena's own description (heapArena); that has one word for each
page of 8 KiB, which leads to the span that the page is part of (mspan), and that begins with two
links, a list, where it starts and how many pages it has. Of the table, 32 MiB of address space,
only a page or two are there. So each page that is there is tried as the one that has an arena's
word. It is the table's if the way leads from there to a span that starts where the arena does, and
so back; then the other arenas' words in the table count too.

Rules: where the description keeps its words for pages depends on Go's version, and is one of three
places. Only where Go asks for its heap on 64-bit machines is looked (0xc0 << 32, and the same in
each of the next 127 TiB).

Source: Go's runtime/mheap.go and malloc.go, 1.11 to 1.26, linux/amd64; Go 1.19 as it runs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from allocscope.glibc.protocols import Memory
from allocscope.immutable import immutable
from allocscope.model.owners import Claim

PAGE = 4096
WORD = 8
ARENA = 64 << 20
BEFORE_ZERO = 1 << 47
"""Canonical addresses begin that much below zero, and so does the table."""
HINT, HINT_STEP = 0xC0 << 32, 1 << 40
GO_PAGE = 8192
PAGE_WORDS_AT = (0, 0x104000, 0x200000)
"""In a description: from Go 1.22 on, in 1.20 and 1.21, and before (behind the bitmap)."""
PAGE_WORDS_BYTES = ARENA // GO_PAGE * WORD
SPAN = struct.Struct("<24x2Q")
"""Behind two links and a list: where a span starts, and how many pages it has."""
MOST_PAGES_TRIED = 1 << 16
MOST_ARENAS_TRIED = 4
Span = tuple[int, int]


@immutable
class _Table:
    """``start``: of the table. ``page_words_at``: in each description."""

    start: int
    page_words_at: int

    def entry(self, arena: int) -> int:
        return self.start + _index(arena) * WORD


def claims(memory: Memory, spans: Sequence[Span]) -> Iterator[Claim]:
    """Claims within ``spans``: anonymous memory that nobody else owns."""
    heaps = [span for span in spans if _hinted(span[0])]
    arenas = sorted({arena for start, end in heaps for arena in _arenas(start, end)})
    table = _table(memory, arenas, [span for span in spans if not _hinted(span[0])])
    if table is None:
        return
    entries = memory.read_each([table.entry(arena) for arena in arenas], WORD)
    described = {
        arena: int.from_bytes(entry, "little")
        for arena, entry in zip(arenas, entries, strict=True)
        if entry is not None and any(entry)
    }
    for start, end in heaps:
        for arena in _arenas(start, end):
            if arena in described:
                evidence = f"the runtime's table at {table.start:#x} leads to its description"
                low, high = max(start, arena), min(end, arena + ARENA)
                yield Claim(low, high, "runtime-heap", "Go heap", evidence)
    for arena, description in described.items():
        end = description + table.page_words_at + PAGE_WORDS_BYTES
        evidence = f"the runtime's table at {table.start:#x} leads here from {arena:#x}"
        yield Claim(description, end, "runtime-heap", "Go heap's description", evidence)


def _hinted(address: int) -> bool:
    return HINT <= address % HINT_STEP < HINT + (1 << 32)


def _arenas(start: int, end: int) -> range:
    return range(start // ARENA * ARENA, end, ARENA)


def _index(arena: int) -> int:
    return (arena + BEFORE_ZERO) // ARENA


def _table(memory: Memory, arenas: Sequence[int], spans: Sequence[Span]) -> _Table | None:
    """Where the table is that one of the first arenas is in, if it is in ``spans``."""
    if not arenas:
        return None
    pages = [
        page
        for start, end in spans
        for low, high in memory.runs(start, end)
        for page in range(low, high, PAGE)
    ][:MOST_PAGES_TRIED]
    for arena in arenas[:MOST_ARENAS_TRIED]:
        offset = _index(arena) * WORD
        entries = [page + offset % PAGE for page in pages]
        led = [pair for pair in zip(entries, _words(memory, entries), strict=True) if pair[1]]
        for page_words_at in PAGE_WORDS_AT:
            entry = _leads_back(memory, arena, led, page_words_at)
            if entry is not None:
                return _Table(entry - offset, page_words_at)
    return None


def _leads_back(
    memory: Memory, arena: int, led: Sequence[tuple[int, int]], page_words_at: int
) -> int | None:
    """The entry from which the way leads by a description and a span to the arena. ``led``: entries
    with the word that is there."""
    spans = _words(memory, [description + page_words_at for _, description in led])
    told = memory.read_each(spans, SPAN.size)
    for (entry, _), span, data in zip(led, spans, told, strict=True):
        if span and data is not None:
            start, page_count = SPAN.unpack(data)
            if start == arena and page_count > 0:
                return entry
    return None


def _words(memory: Memory, addresses: Sequence[int]) -> list[int]:
    """The word at each address, 0 where it is not there."""
    return [int.from_bytes(word or b"", "little") for word in memory.read_each(addresses, WORD)]
