"""Chunks that look allocated but are free: those parked in tcaches and fastbins, and the tcaches'
own chunks.

Tcaches are followed once for all arenas, because a thread may park chunks of any arena; fastbins
arena by arena, through its headers where they are long. Whether links are mangled (safe-linking) is
read from the lists: with the wrong reading a list does not end after the number of elements that
its counter tells.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from allocscope.glibc.abi import Abi
from allocscope.glibc.layouts import StateLayout
from allocscope.glibc.protocols import Memory, Walker
from allocscope.glibc.states import CHUNK_FLAGS, ArenaState
from allocscope.glibc.threads import Tcache
from allocscope.immutable import immutable

SMALL_BINS = 64
"""A tcache's bins for one chunk size each (TCACHE_SMALL_BINS in malloc.c; 2.42 put larger ones
behind them)."""
MANY_LISTS = 128
LARGE_ARENA_BYTES = 256 << 20
Followed = tuple[Sequence[int], bool]
"""What a list holds, and whether it ended as it should."""


@immutable
class ParkedChunk:
    """A chunk in a tcache: whose, how large, and how many are behind it in its list. Lists grow at
    their heads, so those came before it."""

    tid: int
    size_bytes: int
    place: int


@immutable
class Parked:
    """What lies in tcaches: addresses of the parked chunks and of the tcaches' own, each sorted.
    ``broken``: lists that did not end as they should. ``lists``: thread, number of the bin, and the
    chunks in it."""

    chunks: array[int]
    structs: array[int]
    broken: tuple[str, ...]
    lists: tuple[tuple[int, int, tuple[int, ...]], ...]

    def of(self, tid: int) -> Iterable[int]:
        """One thread's parked chunks."""
        return (chunk for owner, _, chunks in self.lists if owner == tid for chunk in chunks)

    def details(self, memory: Memory, wanted: frozenset[int]) -> dict[int, ParkedChunk]:
        """What is known of these chunks."""
        abi = memory.abi
        found = [
            (chunk, tid, place)
            for tid, _, chunks in (self.lists if wanted else ())
            for place, chunk in enumerate(reversed(chunks))
            if chunk in wanted
        ]
        words = memory.read_each([c + abi.word_bytes for c, *_ in found], abi.word_bytes)
        return {
            chunk: ParkedChunk(tid, int.from_bytes(word or b"", "little") & ~CHUNK_FLAGS, place)
            for (chunk, tid, place), word in zip(found, words, strict=True)
        }

    def sizes(self, memory: Memory) -> dict[int, tuple[int, int]]:
        """How many chunks each thread has parked, and their bytes. Chunks in one of the first
        SMALL_BINS are as large as its number says (csize2tidx in malloc.c); in the others each is
        asked."""
        abi = memory.abi
        places = [
            c + abi.word_bytes for _, i, chunks in self.lists if i >= SMALL_BINS for c in chunks
        ]
        words = iter(memory.read_each(places, abi.word_bytes))
        sums: dict[int, tuple[int, int]] = {}
        for tid, i, chunks in self.lists:
            size = len(chunks) * (abi.min_chunk_bytes + i * abi.alignment)
            if i >= SMALL_BINS:
                size = sum(
                    int.from_bytes(next(words) or b"", "little") & ~CHUNK_FLAGS for _ in chunks
                )
            count, total = sums.get(tid, (0, 0))
            sums[tid] = (count + len(chunks), total + size)
        return sums


@immutable
class Marks:
    """What the walk of one arena is told beforehand, each list sorted: chunks in tcaches (of all
    arenas) and fastbins, the tcaches' own chunks, and chunks known from bins and top."""

    tcache: Sequence[int]
    fastbin: Sequence[int]
    tcache_struct: Sequence[int]
    known: Sequence[int]

    def within(self, start: int, end: int) -> Marks:
        """The part of each list that lies in ``[start, end)``."""
        lists = (self.tcache, self.fastbin, self.tcache_struct, self.known)
        return Marks(*(part[bisect_left(part, start) : bisect_left(part, end)] for part in lists))


def longest_list(arenas: Sequence[ArenaState], abi: Abi) -> int:
    """More chunks than this cannot be in one list: the largest arena, cut into the smallest chunks.
    A list that is changed while it is followed may lead in a circle, so this bound matters."""
    return max((arena.system_bytes for arena in arenas), default=0) // abi.min_chunk_bytes + 1


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
    header = memory.abi.header_bytes
    samples += [(head, header, 0) for arena in arenas for head in arena.fastbins if head]
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


def _side_by_side(
    walker: Walker, heads: Sequence[int], link_offset: int, mangled: bool, limit: int
) -> list[Followed]:
    """Memory.chase of all heads, every second list by another thread."""

    def part(memory: Memory, _walker: Walker, heads: Sequence[int]) -> Sequence[Followed]:
        return memory.chase(heads, link_offset=link_offset, mangled=mangled, limit=limit)

    found: list[Followed] = [((), False)] * len(heads)
    found[::2], found[1::2] = walker.each([heads[::2], heads[1::2]], part)
    return found


def park(memory: Memory, walker: Walker, tcaches: Sequence[Tcache], mangled: bool) -> Parked:
    """Follows every bin of every tcache."""
    broken: list[str] = []
    parked: list[int] = []
    by_bin: list[tuple[int, int, tuple[int, ...]]] = []
    wanted = [(t, i) for t in tcaches for i, head in enumerate(t.heads) if head]
    fullest = max((t.counts[i] for t, i in wanted), default=0)
    heads = [t.heads[i] for t, i in wanted]
    if len(heads) >= MANY_LISTS:
        lists = _side_by_side(walker, heads, 0, mangled, fullest + 1)
    else:
        lists = memory.chase(heads, link_offset=0, mangled=mangled, limit=fullest + 1)
    for (tcache, i), (found, whole) in zip(wanted, lists, strict=True):
        if not whole or len(found) != tcache.counts[i]:
            broken.append(f"tcache bin {i} of thread {tcache.tid}")
        chunks = tuple(pointer - memory.abi.header_bytes for pointer in found)
        parked += chunks
        by_bin.append((tcache.tid, i, chunks))
    structs = array("Q", sorted(t.chunk for t in tcaches))
    return Parked(array("Q", sorted(parked)), structs, tuple(broken), tuple(by_bin))


def fast_chunks(
    memory: Memory,
    arena: ArenaState,
    mangled: bool,
    limit: int | None = None,
    walker: Walker | None = None,
) -> tuple[array[int], bool]:
    """The chunks in an arena's fastbins, sorted, and whether all of its lists ended as they should,
    and within ``limit`` elements. ``walker``: for following the lists of a large arena side by
    side."""
    heads = [head for head in arena.fastbins if head]
    most, link = limit or longest_list([arena], memory.abi), memory.abi.header_bytes
    lists: Sequence[Followed]
    if walker is not None and arena.system_bytes >= LARGE_ARENA_BYTES:
        lists = _side_by_side(walker, heads, link, mangled, most)
    else:
        lists = memory.chase(heads, link_offset=link, mangled=mangled, limit=most)
    chunks = array("Q")
    for found, _ in lists:
        chunks.extend(found)
    memory.sort(chunks)
    return chunks, all(whole for _, whole in lists)


def known_chunks(arena: ArenaState, layout: StateLayout) -> list[int]:
    """Chunks that the arena's own header names: the ends of its bins, and top."""
    found = {arena.top}
    for _, fd, bk in arena.bin_heads(layout):
        found |= {fd, bk}
    base = arena.address
    return sorted(address for address in found if not base <= address < base + layout.size)
