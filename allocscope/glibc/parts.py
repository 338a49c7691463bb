"""A long row of chunks, walked in parts side by side.

Strategy: a row has no index, so a walk can begin only where a chunk is known to begin: at a free
chunk, which a bin leads to, or which is recognised by its links in the memory where a part should
begin. Those nearest to equal parts become the seams.

Rules: the sum of the parts is what one walk over all would have found. So a seam is a free chunk
whose neighbours, in memory and in its list, agree that it is one, that follows no fastbin chunk
(with which malloc_trim would join it; where they are not known yet, what the parts keep of chunks
in doubt is joined at the seam), and in which a page begins (so that no page has live chunks of both
parts). The walk itself proves the choice: where a part but the last does not arrive at its
seam, the row is walked again, in one.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from allocscope.errors import MemoryGap
from allocscope.glibc.abi import Abi
from allocscope.glibc.protocols import Memory, Walker
from allocscope.glibc.states import CHUNK_FLAGS
from allocscope.immutable import names_of, replace
from allocscope.model.heap import SizeClass
from allocscope.model.walk import (
    MOST_LARGEST,
    STOP_DEADLINE,
    STOP_LIMIT,
    FreeChunk,
    Region,
    Residency,
    Tally,
    Words,
)

SHORTEST_PART_BYTES = 64 << 20
MOST_PARTS = 8
SEARCHED_BYTES = 1 << 17
PREV_INUSE = 1
_MASK64 = (1 << 64) - 1
_FIRST_OF = ("first_damage", "before_damage", "first_footer_mismatch")
_LAST_OF = ("last_live", "last_live_bytes")
_OWN = {
    *_FIRST_OF,
    *_LAST_OF,
    "stopped_at",
    "stop_reason",
    "before_resident_bytes",
    "beyond_resident_bytes",
}
_OWN |= {"pages", "classes", "largest", "words", "cells", "pins", "doubts"}


def walk(memory: Memory, walker: Walker, region: Region) -> Tally:
    """The tally of the whole region."""
    seams = [] if region.pins else _seams(memory, region)
    if not seams:
        return walker.walk(region)
    page = memory.abi.page_bytes
    parts = _cut(region, seams, page)
    tallies = walker.each(parts, lambda _, own, part: own.walk(part))
    if not all(_arrived(tally) for tally in tallies[:-1]):
        return walker.walk(region)
    shared = [memory.residency(seam // page * page, _page_up(seam, page)) for seam in seams]
    return replace(joined(tallies, shared), cells=_cells(parts, tallies, page))


def _arrived(tally: Tally) -> bool:
    whole = tally.stop_reason == STOP_LIMIT and not tally.damage_count
    return whole or tally.stop_reason == STOP_DEADLINE


def _page_up(address: int, page: int) -> int:
    return -(-address // page) * page


# ---- where to cut ----


def _seams(memory: Memory, region: Region) -> list[int]:
    """Where parts but the first begin, ascending."""
    length = region.limit - region.first
    count = min(MOST_PARTS, length // SHORTEST_PART_BYTES)
    if count < 2:
        return []
    wanted = [region.first + length * number // count for number in range(1, count)]
    chunks = {*region.known, *(c for address in wanted for c in _free_chunks(memory, address))}
    possible = _possible_seams(memory, region, sorted(chunks - {region.top}))
    chosen = set()
    for address in wanted:
        at = bisect_left(possible, address)
        near = possible[max(at - 1, 0) : at + 1]
        chosen |= {min(near, key=lambda seam: abs(seam - address))} if near else set()
    return sorted(chosen)


def _free_chunks(memory: Memory, address: int) -> list[int]:
    """What looks like a free chunk in the memory behind ``address``: its size stands in its header
    and in the word behind it."""
    abi = memory.abi
    start = address // abi.page_bytes * abi.page_bytes
    try:
        words = abi.view(memory.read(start, SEARCHED_BYTES))
    except MemoryGap:
        return []
    found = []
    first = (abi.first_chunk(start) - start) // abi.word_bytes
    for at in range(first, len(words) - 1, abi.alignment // abi.word_bytes):
        word = words[at + 1]
        size = word & ~CHUNK_FLAGS
        if word & PREV_INUSE and abi.min_chunk_bytes <= size < SEARCHED_BYTES:
            behind = at + size // abi.word_bytes
            if behind + 1 < len(words) and words[behind] == size:
                found.append(start + at * abi.word_bytes)
    return found


def _pairs(memory: Memory, addresses: Sequence[int]) -> list[tuple[int, int]]:
    """Two words at each address, zeros where they are not in memory."""
    abi = memory.abi
    found = memory.read_each(addresses, abi.header_bytes)
    return [_pair(abi, data or bytes(abi.header_bytes)) for data in found]


def _pair(abi: Abi, data: bytes) -> tuple[int, int]:
    first, second = abi.words(data, 0, 2)
    return first, second


def _possible_seams(memory: Memory, region: Region, chunks: Sequence[int]) -> list[int]:
    page, fd = memory.abi.page_bytes, memory.abi.header_bytes
    inside = [c for c in chunks if region.first < c < region.limit]
    sized = []
    for chunk, (_, word) in zip(inside, _pairs(memory, inside), strict=True):
        size = word & ~CHUNK_FLAGS
        page_begins = _page_up(chunk, page) <= (chunk + size) // page * page
        if word & PREV_INUSE and page_begins and chunk + size < region.limit:
            sized.append((chunk, size))
    behind = _pairs(memory, [chunk + size for chunk, size in sized])
    free = [
        chunk
        for (chunk, size), (prev_size, word) in zip(sized, behind, strict=True)
        if prev_size == size and not word & PREV_INUSE
    ]
    links = _pairs(memory, [chunk + fd for chunk in free])
    forward = _pairs(memory, [following + fd for following, _ in links])
    backward = _pairs(memory, [before + fd for _, before in links])
    listed = [
        chunk
        for chunk, (_, bk_of_fd), (fd_of_bk, _) in zip(free, forward, backward, strict=True)
        if bk_of_fd == chunk == fd_of_bk
    ]
    return [chunk for chunk in listed if not _follows_fast_chunk(memory, region, chunk)]


def _follows_fast_chunk(memory: Memory, region: Region, chunk: int) -> bool:
    before = bisect_left(region.fastbin, chunk) - 1
    if before < 0:
        return False
    [(_, word)] = _pairs(memory, [region.fastbin[before]])
    return region.fastbin[before] + (word & ~CHUNK_FLAGS) == chunk


def _cut(region: Region, seams: Sequence[int], page: int) -> list[Region]:
    edges = [region.first, *seams, region.limit]
    parts = []
    for first, limit in itertools.pairwise(edges):
        last = limit == region.limit
        parts.append(
            replace(
                region,
                start=region.start if first == region.first else first // page * page,
                first=first,
                limit=limit,
                map_end=region.map_end if last else _page_up(limit, page),
                top=region.top if last else 0,
                tcache=_within(region.tcache, first, limit),
                fastbin=_within(region.fastbin, first, limit),
                tcache_struct=_within(region.tcache_struct, first, limit),
                known=_within(region.known, first, limit),
                joins=first != region.first,
            )
        )
    return parts


def _within(addresses: Sequence[int], start: int, end: int) -> Sequence[int]:
    return addresses[bisect_left(addresses, start) : bisect_left(addresses, end)]


# ---- putting the parts together ----


def joined(tallies: Sequence[Tally], shared: Sequence[Residency]) -> Tally:
    """The sum of neighbouring parts. ``shared``: the states of pages that two parts counted."""
    last = tallies[-1]
    late = any(tally.stop_reason == STOP_DEADLINE for tally in tallies)
    sums = {
        name: sum(getattr(tally, name) for tally in tallies) & _MASK64
        for name in names_of(Tally)
        if name not in _OWN
    }
    firsts = {
        name: next((found for tally in tallies if (found := getattr(tally, name))), 0)
        for name in _FIRST_OF
    }
    lasts = {
        name: next((found for tally in reversed(tallies) if (found := getattr(tally, name))), 0)
        for name in _LAST_OF
    }
    return Tally(
        **sums,
        **firsts,
        **lasts,
        stopped_at=last.stopped_at,
        stop_reason=STOP_DEADLINE if late else last.stop_reason,
        before_resident_bytes=tallies[0].before_resident_bytes,
        beyond_resident_bytes=last.beyond_resident_bytes,
        pages=_pages([tally.pages for tally in tallies], shared),
        classes=add_classes(tallies),
        largest=_largest(tallies),
        words=_words(tallies),
        cells=None,
        pins=None,
        doubts=tuple(kept for tally in tallies for kept in tally.doubts),
    )


def settled(tally: Tally, found: Tally) -> Tally:
    """The sums of a row together with those of its chunks in doubt."""
    sums = {
        name: (getattr(tally, name) + getattr(found, name)) & _MASK64
        for name in names_of(Tally)
        if name not in _OWN
    }
    last = max(tally, found, key=lambda part: part.last_live)
    return replace(
        tally,
        **sums,
        last_live=last.last_live,
        last_live_bytes=last.last_live_bytes,
        classes=add_classes((tally, found)),
        doubts=(),
    )


def _pages(parts: Sequence[Residency], shared: Sequence[Residency]) -> Residency:
    return Residency(
        *(
            sum(getattr(part, name) for part in parts) - sum(getattr(page, name) for page in shared)
            for name in names_of(Residency)
        )
    )


def _cells(parts: Sequence[Region], tallies: Sequence[Tally], page: int) -> bytes | None:
    """The pages of all parts. Of one that a seam divides, the part before it may know of held
    chunks, which count more; the part behind it knows of the free chunk that the seam is."""
    joint = bytearray()
    for part, tally in zip(parts, tallies, strict=True):
        if tally.cells is None:
            return None
        at = part.start // page - parts[0].start // page
        divided = joint[at:]
        joint[at:] = tally.cells
        joint[at : at + len(divided)] = map(max, divided, tally.cells)
    return bytes(joint)


def _largest(tallies: Sequence[Tally]) -> tuple[FreeChunk, ...]:
    """As many as one tally holds, by falling size, then by address."""
    found = [chunk for tally in tallies for chunk in tally.largest]
    found.sort(key=lambda chunk: (-chunk.size_bytes, chunk.address))
    return tuple(found[:MOST_LARGEST])


def add_classes(tallies: Iterable[Tally]) -> tuple[SizeClass, ...]:
    """All chunks by size class, ascending; only classes with chunks."""
    rows: dict[int, list[SizeClass]] = {}
    for tally in tallies:
        for row in tally.classes:
            rows.setdefault(row.min_bytes, []).append(row)
    return tuple(_summed(rows[least]) for least in sorted(rows))


def _summed(rows: Sequence[SizeClass]) -> SizeClass:
    bounds = {"min_bytes": rows[0].min_bytes, "max_bytes": rows[0].max_bytes}
    counted = {
        name: sum(getattr(row, name) for row in rows)
        for name in names_of(SizeClass)
        if name not in bounds
    }
    return SizeClass(**bounds, **counted)


def _words(tallies: Sequence[Tally]) -> Words | None:
    kept = [tally.words for tally in tallies if tally.words is not None]
    if not kept:
        return None
    return Words(b"".join(w.pages for w in kept), b"".join(w.words for w in kept))
