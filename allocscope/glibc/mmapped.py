"""Chunks with a mapping of their own: nothing lists them, so they are found by their headers.

A mapping made for one chunk begins with the chunk's header (or, for memalign, with the distance to
it noted in prev_size), and header and mapping length must agree to the byte. The kernel joins
neighbouring mappings, so each one is gone through mapping by mapping. ``mp_`` counts them: the
search ends when the count is reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from allocscope.glibc.abi import WIDE, Abi
from allocscope.glibc.protocols import Memory
from allocscope.glibc.states import CHUNK_FLAGS

PAGE = 4096
IS_MMAPPED = 2
HUGETLB_BIT = 1
SEARCH_PAGES = 1 << 18
OFFSET_PAGES = 512


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


def _length_at(memory: Memory, address: int, end: int, size_is_usable: bool) -> int:
    abi = memory.abi
    [data] = memory.read_each([address + abi.slack_bytes], abi.header_bytes)
    if data is None:
        return 0
    prev_size, size_word = abi.words(data, 0, 2)
    length = chunk_length(prev_size, size_word, abi.slack_bytes, size_is_usable, abi)
    return length if length <= end - address else 0


def header_of(memory: Memory, start: int, end: int, size_is_usable: bool) -> tuple[int, bytes]:
    """Where the header of the chunk lies that has the mapping ``[start, end)``, and its bytes; none
    where it is no longer there."""
    abi = memory.abi
    for offsets in ([abi.slack_bytes], _aligned_offsets(start, end, abi)):
        found = memory.read_each([start + offset for offset in offsets], abi.header_bytes)
        for offset, data in zip(offsets, found, strict=True):
            if data is None:
                continue
            prev_size, size_word = abi.words(data, 0, 2)
            if chunk_length(prev_size, size_word, offset, size_is_usable, abi) == end - start:
                return start + offset, data
    return start, b""


def _aligned_offsets(start: int, end: int, abi: Abi) -> list[int]:
    offsets = list(range(abi.slack_bytes + abi.alignment, PAGE, abi.alignment))
    offsets += [
        page * PAGE - abi.header_bytes
        for page in range(2, OFFSET_PAGES + 1)
        if start + page * PAGE < end
    ]
    return offsets


def _aligned_length_at(memory: Memory, start: int, end: int, size_is_usable: bool) -> int:
    """A memalign'ed chunk: its header lies somewhere in the first page, or right before an aligned
    address."""
    abi = memory.abi
    offsets = _aligned_offsets(start, end, abi)
    found = memory.read_each([start + offset for offset in offsets], abi.header_bytes)
    for offset, data in zip(offsets, found, strict=True):
        if data is None:
            continue
        prev_size, size_word = abi.words(data, 0, 2)
        length = chunk_length(prev_size, size_word, offset, size_is_usable, abi)
        if length and length <= end - start:
            return length
    return 0


def _chain(
    memory: Memory, start: int, end: int, size_is_usable: bool, aligned: bool
) -> Iterable[tuple[int, int]]:
    """Neighbouring mappings from ``start`` on. ``aligned``: where a header leads to no other one,
    it may be what memalign left at the start of a mapping that realloc resized since; the chunk's
    own header lies further on and tells the truth."""
    while start < end:
        length = _length_at(memory, start, end, size_is_usable)
        following = start + length
        sound = length and (following == end or _length_at(memory, following, end, size_is_usable))
        if aligned and not sound:
            length = _aligned_length_at(memory, start, end, size_is_usable) or length
        if not length:
            return
        yield start, start + length
        start += length


def _page_starts(memory: Memory, spans: Sequence[tuple[int, int]]) -> Iterable[tuple[int, int]]:
    """Every present page but the first of each span, with its span's end; bounded."""
    left = SEARCH_PAGES
    for start, end in spans:
        for low, high in memory.runs(start, end):
            for page in range(max(low, start + PAGE), high, PAGE):
                left -= 1
                if left < 0:
                    return
                yield page, end


def find_mmapped(
    memory: Memory,
    spans: Sequence[tuple[int, int]],
    size_is_usable: bool,
    count: int,
    total_bytes: int,
) -> list[tuple[int, int]]:
    """The mappings of mmapped chunks within ``spans`` (anonymous writable memory that no arena
    owns), ascending.

    ``count`` and ``total_bytes`` are ``mp_``'s: with them reached nothing more is searched. From
    2.43 on each realloc of a mapping adds 16 to ``total_bytes`` for ever, which is less than a
    page for long."""
    found: dict[int, int] = {}

    def complete() -> bool:
        if len(found) != count:
            return False
        missing = total_bytes - sum(end - start for start, end in found.items())
        return 0 <= missing < (PAGE if size_is_usable else 1)

    for aligned in (False, True):
        if complete():
            break
        found.clear()
        for start, end in spans:
            for low, high in _chain(memory, start, end, size_is_usable, aligned):
                found[low] = high
            if complete():
                break
    if not complete():
        beyond = 0
        for page, end in _page_starts(memory, spans):
            if page < beyond or page in found:
                continue
            for low, high in _chain(memory, page, end, size_is_usable, False):
                found[low] = beyond = high
            if complete():
                break
    return sorted(found.items())
