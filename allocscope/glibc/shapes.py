"""Tcaches found by what they look like, where no thread's control block is known: in a core without
the note that tells thread pointers, and where the kernel does not tell a robust list.

The struct lies in a chunk of its own, of a size that nothing else is likely to have, so heaps are
searched for that size word. What follows it must be a tcache in every bin: a list exactly where the
counter says so, as long as it says, of chunks of the bin's size. A tcache that holds nothing looks
like a cleared chunk: it is believed only as the first chunk of a heap, where glibc puts it (2.26 to
2.41), or where all its counters tell of free slots (from 2.42 on). Which thread one belongs to is
not known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from allocscope.errors import MemoryGap
from allocscope.glibc.layouts import TcacheLayout
from allocscope.glibc.protocols import Memory
from allocscope.glibc.states import CHUNK_FLAGS
from allocscope.glibc.threads import Tcache, key_is_address, read_tcache
from allocscope.immutable import immutable

BLOCK_BYTES = 1 << 20
MOST_BYTES = 4 << 30
IN_USE_FLAGS = (0, 1, 4, 5)
PREV_INUSE = 1


@immutable
class Shaped:
    """``layout``: which tcache layout they have, None without any; their ``addresses``,
    and what their keys show (as in ThreadSlots)."""

    layout: TcacheLayout | None
    addresses: tuple[int, ...]
    key_is_address: bool | None


NOTHING = Shaped(None, (), None)


def find_by_shape(
    memory: Memory,
    spans: Sequence[tuple[int, int]],
    first_chunks: frozenset[int],
    layouts: Sequence[TcacheLayout],
    fill: int,
) -> Shaped:
    """The tcaches in ``spans`` (memory of heaps). ``first_chunks``: of each heap; ``fill``: what a
    bin may hold."""
    found: dict[str, list[Tcache]] = {}
    by_name = {layout.name: layout for layout in layouts}
    sizes = sorted({size for layout in layouts for size in layout.chunk_sizes})
    for chunk in _chunks(memory, spans, sizes):
        pointer = chunk + memory.abi.header_bytes
        for layout in layouts:
            tcache = read_tcache(memory, 0, pointer, layout, fill)
            if tcache is None or not _in_use(memory, chunk):
                continue
            if _credible(memory, tcache, layout, fill, chunk in first_chunks):
                found.setdefault(layout.name, []).append(tcache)
    if not found:
        return NOTHING
    name, _ = Counter({name: len(found[name]) for name in found}).most_common(1)[0]
    tcaches = found[name]
    keyed = key_is_address(memory, [(head, t.address) for t in tcaches for head in t.heads if head])
    return Shaped(by_name[name], tuple(t.address for t in tcaches), keyed)


def _chunks(
    memory: Memory, spans: Sequence[tuple[int, int]], sizes: Sequence[int]
) -> Iterator[int]:
    """Where a chunk of one of the sizes may begin."""
    abi = memory.abi
    word = abi.word_bytes
    wanted = [(size | flags).to_bytes(word, "little") for size in sizes for flags in IN_USE_FLAGS]
    left = MOST_BYTES
    for start, end in spans:
        for low, high in memory.runs(start, end):
            for at in range(max(low, start), min(high, end), BLOCK_BYTES):
                size = min(BLOCK_BYTES, min(high, end) - at)
                left -= size
                if left < 0:
                    return
                try:
                    block = memory.read(at, size)
                except MemoryGap:
                    continue
                for pattern in wanted:
                    place = block.find(pattern)
                    while place >= 0:
                        if abi.is_chunk(at + place - word):
                            yield at + place - word
                        place = block.find(pattern, place + word)


def _in_use(memory: Memory, chunk: int) -> bool:
    word = memory.abi.word_bytes
    [size] = memory.read_each([chunk + word], word)
    if size is None:
        return False
    following = chunk + (memory.abi.word(size) & ~CHUNK_FLAGS)
    [behind] = memory.read_each([following + word], word)
    return behind is not None and bool(memory.abi.word(behind) & PREV_INUSE)


def _credible(
    memory: Memory, tcache: Tcache, layout: TcacheLayout, fill: int, is_first: bool
) -> bool:
    """Do its lists hold what its counters say, in chunks of their bins' sizes?"""
    filled = [(i, head) for i, head in enumerate(tcache.heads) if head]
    if not filled:
        return _all_free(tcache, layout, fill) if layout.counts_free_slots else is_first
    word, abi = memory.abi.word_bytes, memory.abi
    sizes = memory.read_each([head - word for _, head in filled], word)
    for (index, _), size in zip(filled, sizes, strict=True):
        expected = abi.min_chunk_bytes + index * abi.alignment
        if size is None or (index < 64 and abi.word(size) & ~CHUNK_FLAGS != expected):
            return False
    for mangled in (False, True):
        lists = memory.chase(
            [head for _, head in filled],
            link_offset=0,
            mangled=mangled,
            limit=max(tcache.counts) + 1,
        )
        lengths = [len(found) if whole else -1 for found, whole in lists]
        if lengths == [tcache.counts[index] for index, _ in filled]:
            return True
    return False


def _all_free(tcache: Tcache, layout: TcacheLayout, fill: int) -> bool:
    counters = tcache.raw[: layout.entries]
    return fill > 0 and counters == fill.to_bytes(layout.counter_bytes, "little") * (
        layout.slot_count
    )
