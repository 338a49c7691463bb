"""Go's heap: arenas of 64 MiB, which the runtime finds through a table.

Strategy: the runtime looks up an address in a table with one word for each 64 MiB of address space
(mheap.arenas), which leads to the arena's own description (heapArena); that has one word for each
page of 8 KiB, which leads to the span that the page is part of (mspan), and that begins with two
links, a list, where it starts and how many pages it has. Where the table is one of the program's
variables says: any of those that may be an address is tried, until the way leads from a page that
is there to a span that has it. Then the other arenas' words in the table count too.

Rules: without the way back nothing is claimed. Where the description keeps its words for pages
depends on Go's version, and is one of three places. No page of the heap itself is read, so that it
is found where those must not be.

Source: Go's runtime/mheap.go and malloc.go, 1.11 to 1.26, linux/amd64; Go 1.19 as it runs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

from allocscope.glibc.protocols import Memory
from allocscope.immutable import immutable
from allocscope.model.owners import Claim

PAGE = 4096
WORD = 8
MOST_ADDRESS = 1 << 47
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
MOST_PAGES_TRIED = 64
Span = tuple[int, int]


@immutable
class _Table:
    """``variable``: where it is said where the table starts. ``page_words_at``: in each
    description."""

    variable: int
    start: int
    page_words_at: int

    def entry(self, address: int) -> int:
        return self.start + _index(address) * WORD


def claims(memory: Memory, variables: Mapping[int, int], spans: Sequence[Span]) -> Iterator[Claim]:
    """Claims within ``spans``: anonymous memory that nobody else owns. ``variables``: the words of
    a program's data by their addresses."""
    table = _table(memory, variables, spans)
    if table is None:
        return
    arenas = sorted({arena for start, end in spans for arena in _arenas(start, end)})
    entries = _words(memory, [table.entry(arena) for arena in arenas])
    described = {arena: at for arena, at in zip(arenas, entries, strict=True) if at}
    found = f"the runtime's table of arenas at {table.variable:#x}"
    for start, end in spans:
        for arena in _arenas(start, end):
            if arena in described:
                evidence = f"{found} leads to its description at {described[arena]:#x}"
                low, high = max(start, arena), min(end, arena + ARENA)
                yield Claim(low, high, "runtime-heap", "Go heap", evidence)
    for arena, description in described.items():
        end = description + table.page_words_at + PAGE_WORDS_BYTES
        evidence = f"{found} leads here from {arena:#x}"
        yield Claim(description, end, "runtime-heap", "Go heap's description", evidence)


def is_hinted(address: int) -> bool:
    """Does Go ask for its heap here on 64-bit machines? Up to 1.25 always: at 0xc0 << 32, and the
    same in each of the next 127 TiB."""
    return HINT <= address % HINT_STEP < HINT + (1 << 32)


def _arenas(start: int, end: int) -> range:
    return range(start // ARENA * ARENA, end, ARENA)


def _index(address: int) -> int:
    return (address + BEFORE_ZERO) // ARENA


def _table(memory: Memory, variables: Mapping[int, int], spans: Sequence[Span]) -> _Table | None:
    """The table by which one of the pages in ``spans`` is known."""
    tables = [
        (variable, word)
        for variable, word in variables.items()
        if PAGE <= word < MOST_ADDRESS and word % PAGE == 0
    ]
    for page in _pages(memory, spans):
        entries = [start + _index(page) * WORD for _, start in tables]
        described = _words(memory, entries)
        led = [
            (variable, start, description)
            for (variable, start), description in zip(tables, described, strict=True)
            if description
        ]
        for at in PAGE_WORDS_AT:
            place = at + page % ARENA // GO_PAGE * WORD
            span_words = _words(memory, [description + place for *_, description in led])
            told = memory.read_each(span_words, SPAN.size)
            for (variable, start, _), word, data in zip(led, span_words, told, strict=True):
                if word and data is not None and _includes(data, page):
                    return _Table(variable, start, at)
    return None


def _includes(data: bytes, page: int) -> bool:
    start, page_count = SPAN.unpack(data)
    return bool(start % GO_PAGE == 0 and start <= page < start + page_count * GO_PAGE)


def _pages(memory: Memory, spans: Sequence[Span]) -> list[int]:
    """Of each span the start, and where its first pages that are there begin; those first that may
    well be Go's, then the largest."""
    pages: list[int] = []
    for start, end in sorted(spans, key=lambda s: (not is_hinted(s[0]), s[0] - s[1])):
        pages.append(start)
        pages += [low for low, _ in memory.runs(start, end)[:1]]
    return list(dict.fromkeys(pages))[:MOST_PAGES_TRIED]


def _words(memory: Memory, addresses: Sequence[int]) -> list[int]:
    """The word at each address, 0 where it is not there."""
    return [int.from_bytes(word or b"", "little") for word in memory.read_each(addresses, WORD)]
