"""Chunks that look allocated but are free: those parked in tcaches and fastbins, and the tcaches'
own chunks.

Their addresses are collected once for all arenas; the walk is given the part that lies in each row
of chunks. Whether links are mangled (safe-linking) is read from the lists: with the wrong reading a
list does not end after the number of elements that its counter tells.
"""

from __future__ import annotations

import dataclasses
from array import array
from bisect import bisect_left
from collections.abc import Sequence

from allocscope.glibc.layouts import WORD, StateLayout
from allocscope.glibc.protocols import Memory
from allocscope.glibc.states import ArenaState
from allocscope.glibc.threads import Tcache

HEADER_BYTES = 2 * WORD
MIN_CHUNK_BYTES = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Marks:
    """Chunk addresses, each list sorted. ``broken``: lists that did not end as they should.
    ``by_tcache``: how many chunks each thread's tcache holds."""

    tcache: array[int]
    fastbin: array[int]
    tcache_struct: array[int]
    broken: tuple[str, ...]
    by_tcache: dict[int, tuple[int, ...]]

    def within(self, start: int, end: int) -> tuple[array[int], array[int], array[int]]:
        """The part of each list that lies in ``[start, end)``."""
        return (
            _part(self.tcache, start, end),
            _part(self.fastbin, start, end),
            _part(self.tcache_struct, start, end),
        )


def _part(sorted_list: array[int], start: int, end: int) -> array[int]:
    return sorted_list[bisect_left(sorted_list, start) : bisect_left(sorted_list, end)]


def longest_list(arenas: Sequence[ArenaState]) -> int:
    """More chunks than this cannot be in one list: the largest arena, cut into the smallest chunks.
    A list that is changed while it is followed may lead in a circle, so this bound matters."""
    return max((arena.system_bytes for arena in arenas), default=0) // MIN_CHUNK_BYTES + 1


def detect_safe_linking(
    memory: Memory, tcaches: Sequence[Tcache], arenas: Sequence[ArenaState], default: bool
) -> bool:
    """Are the lists' links mangled? Decided by the first non-empty list; ``default`` when all are
    empty."""
    samples = [
        (head, 0, count)
        for t in tcaches
        for head, count in zip(t.heads, t.counts, strict=True)
        if head
    ]
    samples += [(head, HEADER_BYTES, 0) for arena in arenas for head in arena.fastbins if head]
    for head, link_offset, count in samples[:64]:
        verdicts = []
        for mangled in (False, True):
            limit = count + 1 if count else 1 << 16
            [(found, whole)] = memory.chase(
                [head], link_offset=link_offset, mangled=mangled, limit=limit
            )
            verdicts.append(whole and (not count or len(found) == count))
        if verdicts[0] != verdicts[1]:
            return verdicts[1]
    return default


def collect(
    memory: Memory, tcaches: Sequence[Tcache], arenas: Sequence[ArenaState], mangled: bool
) -> Marks:
    """Follows every tcache bin and every fastbin."""
    broken: list[str] = []
    parked: list[int] = []
    by_tcache: dict[int, tuple[int, ...]] = {}
    wanted = [(t, i) for t in tcaches for i, head in enumerate(t.heads) if head]
    fullest = max((t.counts[i] for t, i in wanted), default=0)
    lists = memory.chase(
        [t.heads[i] for t, i in wanted], link_offset=0, mangled=mangled, limit=fullest + 1
    )
    for (tcache, i), (found, whole) in zip(wanted, lists, strict=True):
        if not whole or len(found) != tcache.counts[i]:
            broken.append(f"tcache bin {i} of thread {tcache.tid}")
        chunks = [pointer - HEADER_BYTES for pointer in found]
        parked += chunks
        by_tcache[tcache.tid] = by_tcache.get(tcache.tid, ()) + tuple(chunks)

    fast: list[int] = []
    heads = [(arena, head) for arena in arenas for head in arena.fastbins if head]
    lists = memory.chase(
        [head for _, head in heads],
        link_offset=HEADER_BYTES,
        mangled=mangled,
        limit=longest_list(arenas),
    )
    for (arena, _), (found, whole) in zip(heads, lists, strict=True):
        if not whole:
            broken.append(f"a fastbin of arena {arena.address:#x}")
        fast += found
    structs = array("Q", sorted(t.chunk for t in tcaches))
    return Marks(
        array("Q", sorted(parked)), array("Q", sorted(fast)), structs, tuple(broken), by_tcache
    )


def known_chunks(arena: ArenaState, layout: StateLayout) -> list[int]:
    """Chunks that the arena's own header names: the ends of its bins, and top."""
    found = {arena.top}
    for _, fd, bk in arena.bin_heads(layout):
        found |= {fd, bk}
    base = arena.address
    return sorted(address for address in found if not base <= address < base + layout.size)
