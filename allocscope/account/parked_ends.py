"""Ends of heaps that thread caches keep from shrinking, by chunks parked in them.

A parked chunk counts as in use, so free() merges nothing across it. Where only such chunks lie
between the last live one and top, the end of the heap would have been given back if they had been
freed to a bin. A cache takes the first chunks of a size that are freed, up to ``tcache_count``, so
of those that are there a smaller number would hold the ones that came first: the last of each list.
From glibc 2.43 on a cache itself, a chunk too, is made when its thread first frees something. If
the heap has grown by then it lies high, and only a tcache_count of 0 does without.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from allocscope.account.heap_end import Sizes, can_shrink, released_by_free
from allocscope.glibc.abi import Abi
from allocscope.glibc.marks import ParkedChunk
from allocscope.glibc.reading import CachedEnd, HeapReading
from allocscope.model.heap import ParkedBy, ParkedEnd, TcacheGain

OLD_TCACHE_COUNT = 7
"""The default from glibc 2.26 to 2.42; 16 from 2.43 on."""


def parked_ends(
    reading: HeapReading,
    ends: Sequence[CachedEnd],
    abi: Abi,
    brk_end: int,
    resident: Sizes,
    details: Callable[[frozenset[int]], Mapping[int, ParkedChunk]],
) -> tuple[ParkedEnd, ...]:
    """Those of ``ends`` that free() would have given something back of, by falling bytes.
    ``details``: tells of parked chunks (Parked.details); ``brk_end``: where the break ends."""
    ends = [end for end in ends if can_shrink(end.arena_index, end.piece, brk_end)]
    known = details(frozenset(chunk for end in ends for chunk in end.chunks))
    counts = [0]
    if (reading.par.tcache_count or 0) > OLD_TCACHE_COUNT:
        counts.append(OLD_TCACHE_COUNT)
    found = []
    for end in ends:
        parked = {chunk: known[chunk] for chunk in end.chunks}
        tops = [_top_with(count, end, parked, reading) for count in counts]
        released = [
            released_by_free(reading.par, abi, top, end.piece.end, resident) for top in tops
        ]
        gains = [gain or 0 for gain in released]
        if gains[0]:
            found.append(
                ParkedEnd(
                    arena_index=end.arena_index,
                    chunk=max([*end.chunks, *end.structs]),
                    parked_count=len(parked),
                    parked_bytes=sum(one.size_bytes for one in parked.values()),
                    tcache_struct_count=len(end.structs),
                    threads=_threads(parked.values(), end, reading),
                    gains=tuple(map(TcacheGain, counts, gains)),
                )
            )
    return tuple(sorted(found, key=lambda end: -end.held_bytes))


def _top_with(
    tcache_count: int, end: CachedEnd, parked: Mapping[int, ParkedChunk], reading: HeapReading
) -> int:
    """Where top would begin."""
    left = [at + one.size_bytes for at, one in parked.items() if one.place < tcache_count]
    if tcache_count and reading.layout.tcache is not None:
        left += [struct + min(reading.layout.tcache.chunk_sizes) for struct in end.structs]
    return max(left, default=end.held_to)


def _threads(
    parked: Iterable[ParkedChunk], end: CachedEnd, reading: HeapReading
) -> tuple[ParkedBy, ...]:
    counted = Counter(one.tid for one in parked)
    owners = {
        thread.tid
        for thread in reading.threads
        if thread.tcache is not None and thread.tcache.chunk in end.structs
    }
    tids = [*(tid for tid, _ in counted.most_common()), *sorted(owners - counted.keys())]
    return tuple(ParkedBy(tid, counted[tid], tid in owners) for tid in tids)
