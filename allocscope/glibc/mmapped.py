"""Chunks with a mapping of their own: nothing lists them, so they are found by their headers.

A mapping made for one chunk begins with the chunk's header (or, for memalign, with the distance to
it noted in prev_size), and header and mapping length must agree to the byte. The kernel joins
neighbouring mappings, so each one is gone through mapping by mapping. ``mp_`` counts them, and the
search ends when the count is reached, at the cheapest step that gets there: headers where mappings
begin; then where memalign puts them, seen from there; then at any page, within bounds (STEPS).

A process may have 65,000 mappings, so headers are read ahead, many in one call.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from allocscope.glibc.abi import WIDE, Abi
from allocscope.glibc.protocols import Memory
from allocscope.glibc.states import CHUNK_FLAGS

PAGE = 4096
IS_MMAPPED = 2
HUGETLB_BIT = 1
SEARCH_PAGES = 1 << 18
SEARCH_PLACES = 1 << 19
OFFSET_PAGES = 512
AHEAD = 1024

Span = tuple[int, int]


def chunk_length(
    prev_size: int, size_word: int, offset: int, size_is_usable: bool, abi: Abi = WIDE
) -> int:
    """Length of the mapping that a header at ``offset`` into it describes, 0 when it is no header
    of an mmapped chunk."""
    if size_word & CHUNK_FLAGS != IS_MMAPPED:
        return 0
    size = size_word & ~CHUNK_FLAGS
    if size_is_usable:
        length = offset + size + abi.header_bytes if prev_size & ~HUGETLB_BIT == offset else 0
    else:
        length = offset + size if prev_size == offset else 0
    return length if length % PAGE == 0 and length >= PAGE else 0


def header_of(memory: Memory, start: int, end: int, size_is_usable: bool) -> tuple[int, bytes]:
    """Where the header of the chunk lies that has the mapping ``[start, end)``, and its bytes; none
    where it is no longer there."""
    abi = memory.abi
    for offsets in ((abi.slack_bytes,), _page_offsets(start, end, abi)):
        found = memory.read_each([start + offset for offset in offsets], abi.header_bytes)
        for offset, data in zip(offsets, found, strict=True):
            if data is None:
                continue
            prev_size, size_word = abi.words(data, 0, 2)
            if chunk_length(prev_size, size_word, offset, size_is_usable, abi) == end - start:
                return start + offset, data
    return start, b""


def _aligned_offsets(start: int, end: int, abi: Abi) -> tuple[int, ...]:
    """Where the header of a chunk lies that memalign made: right before the first address behind
    the mapping's own header that is a multiple of the alignment, whatever that was."""
    header = abi.header_bytes
    in_first_page = tuple((1 << power) - header for power in range(5, 13))
    alignments = (1 << power for power in range(13, (end - start).bit_length()))
    return in_first_page + tuple(
        dict.fromkeys(-(start + header) % alignment for alignment in alignments)
    )


def _page_offsets(start: int, end: int, abi: Abi) -> Sequence[int]:
    """The same, also for a chunk that realloc moved since: the kernel aligns to pages only."""
    pages = range(2, min(OFFSET_PAGES + 1, (end - start) // PAGE))
    return _aligned_offsets(start, end, abi) + tuple(
        page * PAGE - abi.header_bytes for page in pages
    )


def _nowhere(start: int, end: int, abi: Abi) -> Sequence[int]:
    return ()


STEPS = (
    (_nowhere, False),
    (_aligned_offsets, False),
    (_page_offsets, False),
    (_aligned_offsets, True),
    (_page_offsets, True),
)


class _Headers:
    """The headers of chunks. ``offsets``: where else than at the beginning of a mapping they are
    looked for, SEARCH_PLACES in all. ``further_first``: what is found there counts more."""

    def __init__(
        self,
        memory: Memory,
        size_is_usable: bool,
        offsets: Callable[[int, int, Abi], Sequence[int]],
        further_first: bool = False,
    ) -> None:
        self._memory = memory
        self._further_first = further_first
        self._abi = memory.abi
        self._at_once = (memory.abi.slack_bytes,)
        self._size_is_usable = size_is_usable
        self._offsets = offsets
        self._left = SEARCH_PLACES
        self._at_start: dict[Span, int] = {}
        self._further_on: dict[Span, int] = {}

    def expect(self, spans: Sequence[Span]) -> None:
        """Looks ahead at what will be asked for these spans, in place of what it knew before."""
        self._at_start = self._lengths(spans, [self._at_once] * len(spans))
        bare = [span for span in spans if self._further_first or not self._at_start[span]]
        self._further_on = self._lengths(bare, [self._elsewhere(span) for span in bare])

    def _elsewhere(self, span: Span) -> Sequence[int]:
        offsets = self._offsets(*span, self._abi)[: self._left]
        self._left -= len(offsets)
        return offsets

    def _lengths(self, spans: Sequence[Span], offsets: Sequence[Sequence[int]]) -> dict[Span, int]:
        """Length of the mapping at the start of each span, by the first plausible header at its
        offsets; 0 without any."""
        lengths = dict.fromkeys(spans, 0)
        places = [(span, o) for span, some in zip(spans, offsets, strict=True) for o in some]
        abi = self._abi
        found = self._memory.read_each([span[0] + o for span, o in places], abi.header_bytes)
        for (span, offset), data in zip(places, found, strict=True):
            if data is None or data[abi.word_bytes] & CHUNK_FLAGS != IS_MMAPPED or lengths[span]:
                continue
            prev_size, size_word = abi.words(data, 0, 2)
            length = chunk_length(prev_size, size_word, offset, self._size_is_usable, abi)
            if length <= span[1] - span[0]:
                lengths[span] = length
        return lengths

    def _length_at_start(self, span: Span) -> int:
        if span not in self._at_start:
            self._at_start.update(self._lengths([span], [self._at_once]))
        return self._at_start[span]

    def _length_further_on(self, span: Span) -> int:
        if span not in self._further_on:
            self._further_on.update(self._lengths([span], [self._elsewhere(span)]))
        return self._further_on[span]

    def length(self, start: int, end: int) -> int:
        """Length of the mapping at ``start`` in a span up to ``end``, 0 when it is no chunk's.

        Where a header leads to no other one, it may be what memalign left at the start of a mapping
        that realloc resized since; the chunk's own header lies further on and tells the truth.
        What realloc gave back may since have become another chunk's mapping, to the byte: then even
        the stale header leads to the next one, and ``further_first`` is needed."""
        if self._further_first:
            length = self._length_further_on((start, end))
            if self._leads_on(length, start, end, also_further_on=True):
                return length
        length = self._length_at_start((start, end))
        if self._leads_on(length, start, end):
            return length
        return self._length_further_on((start, end)) or length

    def _leads_on(
        self, length: int, start: int, end: int, *, also_further_on: bool = False
    ) -> bool:
        """Is there a header behind a mapping of that length, or nothing at all?"""
        following = start + length, end
        if not length or following[0] == end or self._length_at_start(following):
            return bool(length)
        return also_further_on and bool(self._length_further_on(following))

    def chain(self, start: int, end: int) -> Iterator[Span]:
        """Neighbouring mappings from ``start`` on."""
        while start < end and (length := self.length(start, end)):
            yield start, start + length
            start += length


def _blocks(spans: Iterable[Span]) -> Iterator[list[Span]]:
    rest = iter(spans)
    while block := list(itertools.islice(rest, AHEAD)):
        yield block


def _by_spans(headers: _Headers, spans: Sequence[Span]) -> Iterator[Span]:
    """Mappings from the beginning of each span on."""
    for block in _blocks(spans):
        headers.expect(block)
        for start, end in block:
            yield from headers.chain(start, end)


def _page_starts(memory: Memory, spans: Sequence[Span]) -> Iterator[Span]:
    """Every present page but the first of each span, with its span's end; bounded."""
    pages = (
        (page, end)
        for start, end in spans
        for low, high in memory.runs(start, end)
        for page in range(max(low, start + PAGE), high, PAGE)
    )
    return itertools.islice(pages, SEARCH_PAGES)


def _by_pages(memory: Memory, headers: _Headers, spans: Sequence[Span]) -> Iterator[Span]:
    """Mappings from any page on."""
    beyond = 0
    for block in _blocks(_page_starts(memory, spans)):
        headers.expect(block)
        for page, end in block:
            if page >= beyond:
                for low, high in headers.chain(page, end):
                    yield low, high
                    beyond = high


def find_mmapped(
    memory: Memory,
    spans: Sequence[Span],
    size_is_usable: bool,
    count: int,
    total_bytes: int,
) -> list[Span]:
    """The mappings of mmapped chunks within ``spans`` (anonymous writable memory that no arena
    owns), ascending.

    ``count`` and ``total_bytes`` are ``mp_``'s: with them reached nothing more is searched. From
    2.43 on each realloc of a mapping adds 16 to ``total_bytes`` for ever, which is less than a
    page for long."""
    found: dict[int, int] = {}
    tolerated_bytes = PAGE if size_is_usable else 1

    def complete() -> bool:
        if len(found) != count:
            return False
        missing_bytes = total_bytes - sum(end - start for start, end in found.items())
        return 0 <= missing_bytes < tolerated_bytes

    def completed_by(mappings: Iterable[Span]) -> bool:
        for start, end in mappings:
            if complete():
                break
            found.setdefault(start, end)
        return complete()

    for offsets, further_first in STEPS:
        found.clear()
        headers = _Headers(memory, size_is_usable, offsets, further_first)
        if completed_by(_by_spans(headers, spans)):
            break
    else:
        completed_by(_by_pages(memory, _Headers(memory, size_is_usable, _nowhere), spans))
    return sorted(found.items())


def joined(spans: Iterable[Span]) -> list[Span]:
    """Ascending spans, with those that follow on each other made one."""
    found: list[Span] = []
    for start, end in spans:
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, end))
    return found
