"""Made-up heaps: rows of chunks as glibc would have left them, written out byte for byte.

Strategy: a Row is a list of chunks, laid one behind the other; that list is the truth from which
tests compute what they expect. Only when all chunks are there is it written to an Image, which is
memory page by page. Source of the layouts: glibc malloc/malloc.c and malloc/arena.c.

What a chunk looks like, from its address on (64-bit):

    +0   prev_size: size of the chunk before, if that is in a bin; else its user's last 8 bytes
    +8   size | PREV_INUSE (1) | IS_MMAPPED (2) | NON_MAIN_ARENA (4)
    +16  user memory; in a bin: fd, bk; in a tcache or a fastbin: the link to the next one
    size behind +0 the next chunk begins; whose PREV_INUSE tells whether this one is in a bin
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

from oracle.rows import (
    HUGE,
    PRESENT,
    SWAPPED,
    ZERO,
    Chunk,
    Pages,
    Rules,
    Walked,
    cells,
    sides,
    sums,
)

from allocscope.files.spans import SpanMemory
from allocscope.model.walk import Region, Tally

__all__ = ["HUGE", "PRESENT", "SWAPPED", "ZERO", "Chunk", "Image", "Row"]

PAGE = 4096
PREV_INUSE, NON_MAIN_ARENA = 1, 4
USER_BYTES = 0xA5A5A5A5A5A5A5A5
"""What stands where a live chunk's user may have written anything."""


class Image:
    """Memory: bytes of whole pages, and the state of each page."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.states: dict[int, int] = {}

    def write(self, address: int, data: bytes) -> None:
        """The pages it touches are there from now on."""
        for offset in range(-(address % PAGE), len(data), PAGE):
            part = data[max(offset, 0) : offset + PAGE]
            place = address + max(offset, 0)
            page = self.pages.setdefault(place // PAGE, bytearray(PAGE))
            self.states.setdefault(place // PAGE, PRESENT)
            page[place % PAGE : place % PAGE + len(part)] = part

    def words(self, address: int, *values: int) -> None:
        self.write(address, struct.pack(f"<{len(values)}Q", *values))

    def word(self, address: int) -> int | None:
        """What is at an address, None where its page is not present."""
        if not self.states.get(address // PAGE, 0) & PRESENT:
            return None
        return int(struct.unpack_from("<Q", self.pages[address // PAGE], address % PAGE)[0])

    def touch(self, start: int, end: int) -> None:
        """All pages of ``[start, end)`` are there."""
        for number in range(start // PAGE, -(-end // PAGE)):
            self.pages.setdefault(number, bytearray(PAGE))
            self.states.setdefault(number, PRESENT)

    def state(self, start: int, end: int, flags: int) -> None:
        """Sets the state of the pages of ``[start, end)``; 0: absent."""
        for number in range(start // PAGE, -(-end // PAGE)):
            self.states[number] = flags
            self.pages.setdefault(number, bytearray(PAGE))

    def runs(self) -> list[tuple[int, int, int]]:
        """Page states as SpanMemory takes them."""
        rows: list[tuple[int, int, int]] = []
        for number, flags in sorted(self.states.items()):
            if rows and rows[-1][1:] == (number * PAGE, flags):
                rows[-1] = (rows[-1][0], (number + 1) * PAGE, flags)
            elif flags:
                rows.append((number * PAGE, (number + 1) * PAGE, flags))
        return rows

    def spans(self) -> dict[int, bytes]:
        """The bytes, one span for each page: those of swapped and absent pages too, so that reading
        them would not go unnoticed."""
        return {number * PAGE: bytes(page) for number, page in self.pages.items()}

    def memory(self) -> SpanMemory:
        memory = SpanMemory(self.spans(), self.runs(), "a made-up heap")
        memory.maps_pages = True
        return memory


class Row:
    """Chunks one behind the other, from ``first`` on."""

    def __init__(self, first: int, *, non_main: bool = False) -> None:
        self.first = first
        self.end = first
        self.non_main = non_main
        self.chunks: list[Chunk] = []
        self.size_words: dict[int, int] = {}

    def add(self, kind: str, size: int, size_word: int | None = None) -> Chunk:
        """``size_word``: what stands in the header, where that is not the size with its flags."""
        chunk = Chunk(self.end, size, kind)
        self.chunks.append(chunk)
        self.end += size
        if size_word is not None:
            self.size_words[chunk.address] = size_word
        return chunk

    def live(self, size: int = 32) -> Chunk:
        return self.add("live", size)

    def free(self, size: int) -> Chunk:
        """In a bin."""
        return self.add("bin", size)

    def fast(self, size: int = 32) -> Chunk:
        return self.add("fastbin", size)

    def cached(self, size: int = 32) -> Chunk:
        """In a tcache."""
        return self.add("tcache", size)

    def tcache_struct(self, size: int = 0x290) -> Chunk:
        """The chunk that a tcache itself lies in."""
        return self.add("tcache_struct", size)

    def top(self, size: int) -> Chunk:
        return self.add("top", size)

    def live_up_to(self, address: int) -> Chunk:
        """A live chunk that ends at ``address``."""
        return self.live(address - self.end)

    def fenceposts(self, count: int = 2) -> None:
        """How the main arena ends a row when somebody else moved the break: two chunks of 16; three
        where old top was of 48 bytes only."""
        self.add("fencepost", 16, 16 | self._prev_inuse())
        for _ in range(count - 1):
            self.add("fencepost", 16, 16 | PREV_INUSE)

    def heap_end(self, old_top: int | None = None) -> None:
        """How a thread's heap ends when its arena went on to another one: of old top, 32 bytes
        become a chunk of 16 and a header of size 0; the rest, if it is enough for a chunk, was
        freed and must have been added before. ``old_top``: 32 or 48, too small for that."""
        if old_top == 48:
            self.add("fencepost", 32, 32 | PREV_INUSE)
        else:
            self.add("fencepost", 16, 16 | self._prev_inuse())
        self.add("fencepost", 16, 0 | PREV_INUSE)

    def _prev_inuse(self) -> int:
        return 0 if self.chunks and self.chunks[-1].kind == "bin" else PREV_INUSE

    def link(self, chunks: Sequence[Chunk], head: int) -> tuple[int, int]:
        """Puts chunks of this row into the bin at ``head`` (the pretended chunk there), first one
        first. Returns what the bin's own fd and bk are then."""
        ring = [head, *(chunk.address for chunk in chunks), head]
        for i, chunk in enumerate(chunks, start=1):
            self.put_links(chunk.address, fd=ring[i + 1], bk=ring[i - 1])
        return ring[1], ring[-2]

    def put_links(self, address: int, *, fd: int, bk: int) -> None:
        place = bisect_left(self.chunks, address, key=lambda chunk: chunk.address)
        self.chunks[place] = dataclasses.replace(self.chunks[place], fd=fd, bk=bk)

    def write(self, image: Image) -> None:
        image.touch(self.first, self.end)
        before: Chunk | None = None
        for chunk in self.chunks:
            free_before = before is not None and before.kind == "bin"
            flags = 0 if free_before else PREV_INUSE
            if self.non_main and chunk.kind in ("live", "tcache", "tcache_struct", "fastbin"):
                flags |= NON_MAIN_ARENA
            prev_size = before.size if before is not None and free_before else USER_BYTES
            image.words(chunk.address, prev_size)
            word = self.size_words.get(chunk.address, chunk.size | flags)
            image.words(chunk.address + 8, word)
            if chunk.kind == "bin":
                image.words(chunk.address + 16, chunk.fd, chunk.bk)
            before = chunk

    # ---- walking it ----

    def addresses(self, kind: str) -> list[int]:
        return [chunk.address for chunk in self.chunks if chunk.kind == kind]

    def region(self, **changes: Any) -> Region:
        """What the walk is told about this row."""
        told: dict[str, Any] = {
            "start": self.first // PAGE * PAGE,
            "first": self.first,
            "limit": self.end,
            "map_end": -(-self.end // PAGE) * PAGE,
            "top": next(iter(self.addresses("top")), 0),
            "trim_unit": 0,
            "trim_pad": 0,
            "merge_fastbins": True,
            "tcache": self.addresses("tcache"),
            "fastbin": self.addresses("fastbin"),
            "tcache_struct": self.addresses("tcache_struct"),
            "known": sorted(self.addresses("bin") + self.addresses("top")),
        }
        return Region(**{**told, **changes})

    def image(self) -> Image:
        image = Image()
        self.write(image)
        return image


def linked(image: Image, pointers: Sequence[int], *, mangled: bool, link_offset: int = 0) -> int:
    """Writes a singly linked list through ``pointers`` (the links lie ``link_offset`` into each)
    and returns its head. Mangled: every link is stored XOR its own address >> 12 (2.32 on)."""
    for pointer, following in itertools.zip_longest(pointers, pointers[1:], fillvalue=0):
        place = pointer + link_offset
        image.words(place, following ^ (place >> 12) if mangled else following)
    return pointers[0] if pointers else 0


def expected(
    chunks: Sequence[Chunk], image: Image, region: Region, **changes: int
) -> dict[str, Any]:
    """All figures of a tally for chunks that are as they should be, by arithmetic over their list;
    ``changes`` is what is not."""
    reason = 1 if region.top else 0
    walked = Walked(stopped_at=region.limit, stop_reason=reason)
    return _all_figures(walked, chunks, image, region) | changes


def _all_figures(
    walked: Walked, chunks: Sequence[Chunk], image: Image, region: Region
) -> dict[str, Any]:
    rules = Rules(
        region.start,
        region.map_end,
        region.trim_unit,
        region.trim_pad,
        region.merge_fastbins,
        list(zip(region.locked[::2], region.locked[1::2], strict=True)),
    )
    counted = dataclasses.asdict(walked)
    del counted["chunks"], counted["unread"]
    pages = Pages(image.runs())
    around = sides(walked, pages, rules, region.first, region.limit)
    mapped = {"cells": cells(chunks, pages, rules)}
    return sums(chunks, pages, rules) | around | counted | mapped


def figures(tally: Tally) -> dict[str, Any]:
    """A tally as a dict, to compare with :func:`expected`."""
    found = dataclasses.asdict(tally)
    del found["words"], found["pins"], found["doubts"]
    found["classes"] = list(found["classes"])
    found["largest"] = list(found["largest"])
    return found


def plainly(walked: Walked, image: Image, region: Region) -> dict[str, Any]:
    """All figures of a row that the oracle walked."""
    return _all_figures(walked, walked.chunks, image, region)


def row_of(first: int, parts: Iterable[tuple[str, int]], *, non_main: bool = False) -> Row:
    """A row from ``(kind, size)`` pairs."""
    row = Row(first, non_main=non_main)
    for kind, size in parts:
        row.add(kind, size)
    return row
