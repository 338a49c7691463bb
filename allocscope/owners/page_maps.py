"""Allocators that keep a map of all pages: jemalloc, gperftools' tcmalloc.

Strategy: each has a table in its own data, an entry of which points to a leaf, and a leaf's entry
leads to what is known of a page: a descriptor, in which the page's address stands. Followed from a
page of a mapping and back to it, that chain is the evidence. Where the table begins is not known:
any pointer in the allocator's data may be the entry, until one of them leads back.

Rule: without the way back nothing is claimed.

Source: jemalloc 5.3, rtree.h, edata.h, emap.h; gperftools 2.7 to 2.16, pagemap.h
(TCMalloc_PageMap2), page_heap.h, span.h.
"""

from __future__ import annotations

import struct

from allocscope.glibc.protocols import Memory
from allocscope.model.process import Mapping
from allocscope.owners.recogniser import PAGE, WORD, Recogniser

_EDGES_TRIED = 32
_PAGES_BETWEEN = 32
_MOST_ADDRESS = 1 << 47


class PageMap(Recogniser):
    """A table of leaves. ``page_bits`` and ``leaf_bits``: of an address, those below what a leaf's
    entry stands for, and those that choose the entry; the bits above choose the leaf."""

    page_bits = 12
    leaf_bits = 18
    align = WORD
    _root: int | None = None

    def keeps(self, word: int) -> bool:
        return PAGE <= word < _MOST_ADDRESS and word % self.align == 0

    def descriptor(self, memory: Memory, entry: int, page: int) -> int:
        """Where the descriptor is to which a leaf's entry leads, if it names this page; else 0."""
        raise NotImplementedError

    def story(self, root: int, page: int, descriptor: int) -> str:
        """The evidence in words."""
        raise NotImplementedError

    def evidence(self, memory: Memory, mapping: Mapping) -> str:
        for page in _pages(memory, mapping):
            number = page >> self.page_bits
            leaves = self._leaves(number >> self.leaf_bits)
            place = WORD * (number & ((1 << self.leaf_bits) - 1))
            entries = memory.read_each([leaf + place for _, leaf in leaves], WORD)
            for (root, _), data in zip(leaves, entries, strict=True):
                entry = int.from_bytes(data or b"", "little")
                found = self.descriptor(memory, entry, page) if entry else 0
                if found:
                    self._root = root
                    return self.story(root, page, found)
        return ""

    def _leaves(self, index: int) -> list[tuple[int, int]]:
        """Where the table may begin, and the leaf that it then has: one possibility once the table
        is known, before that as many as there are pointers in the allocator's data."""
        offset = WORD * index
        if self._root is not None:
            leaf = self._words.get(self._root + offset)
            return [] if leaf is None else [(self._root, leaf)]
        return [(where - offset, word) for where, word in self._words.items()]


class Jemalloc(PageMap):
    """48-bit addresses: two levels of 18 bits each above the 12 of a page. A leaf's entry holds,
    besides flags, the address of a descriptor whose second word is the extent's first address. An
    extent's first and last pages are in the tree, whether it is in use or not."""

    name = "jemalloc"
    align = 64
    _DESCRIPTOR = (1 << 48) - 128

    def descriptor(self, memory: Memory, entry: int, page: int) -> int:
        place = entry & self._DESCRIPTOR
        return place if place and _word(memory, place + WORD) & -PAGE == page else 0

    def story(self, root: int, page: int, descriptor: int) -> str:
        return (
            f"its radix tree at {root:#x} leads from page {page:#x} to the descriptor at "
            f"{descriptor:#x}, which holds that address"
        )


class Tcmalloc(PageMap):
    """48-bit addresses, pages of 8 KiB: 17 bits choose the leaf, 18 the entry, which points to a
    span; a span begins with the number of its first page and how many there are. All pages of a
    span in use are in the map, and both ends of a free one."""

    name = "tcmalloc"
    page_bits = 13
    _SPAN = struct.Struct("<2Q")

    def descriptor(self, memory: Memory, entry: int, page: int) -> int:
        [data] = memory.read_each([entry], self._SPAN.size)
        if data is None:
            return 0
        first, count = self._SPAN.unpack(data)
        return entry if first <= page >> self.page_bits < first + count else 0

    def story(self, root: int, page: int, descriptor: int) -> str:
        return (
            f"its page map at {root:#x} leads from page {page:#x} to the span at {descriptor:#x}, "
            "which includes that page"
        )


def _pages(memory: Memory, mapping: Mapping) -> list[int]:
    """Pages to ask for: where the mapping begins, where its present pages begin and end, and some
    in between."""
    runs = memory.runs(mapping.start, mapping.end)
    edges = [page for start, end in runs for page in (start, end - PAGE)]
    step = max(mapping.size_bytes // _PAGES_BETWEEN // PAGE * PAGE, PAGE)
    between = range(mapping.start, mapping.end, step)
    return list(dict.fromkeys([mapping.start, *edges[:_EDGES_TRIED], *between]))


def _word(memory: Memory, address: int) -> int:
    [data] = memory.read_each([address], WORD)
    return 0 if data is None else int.from_bytes(data, "little")
