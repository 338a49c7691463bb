"""glibc's figures against our reading of the same frozen memory: exactly equal, or a Difference
that says why.

Strategy: both sides are brought to true bytes (:mod:`allocscope.account.corrections`), then
compared figure by figure, arena by arena, and as totals. There is no tolerance. What a version does
not print, or prints of the newest heap only (address space up to 2.26, BZ 22408), is not compared.

Rules: pure. malloc_stats prints everything modulo 2**32 except its last figure: equal modulo 2**32
is equal, and :func:`wrapped` names the figures that glibc could not print. In use = system −
(fastbins + bins + top); the totals add mmapped chunks. Facts: glibc malloc/malloc.c,
``__malloc_info``, ``__malloc_stats``, ``int_mallinfo``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from allocscope.account.corrections import corrected, has_garbage
from allocscope.model.glibc_says import (
    ArenaLists,
    Difference,
    FreeOfArena,
    InfoHeap,
    MallocInfo,
    MallocStats,
    ProcessLists,
)

_WORD = 1 << 64
WRAP = 1 << 32
"""malloc_stats prints its figures modulo this."""

_INFO = "malloc_info, its known inaccuracies taken off, differs from what was found in memory"
_STATS = "malloc_stats differs from what was found in memory, 32-bit wrap-around allowed for"
_GARBAGE = (
    "this glibc prints uninitialised memory as its unsorted bin (BZ 16112, fixed in 2.19):"
    " its figure means nothing"
)


class _Pair(NamedTuple):
    figure: str
    glibc: int
    ours: int


def compare(
    info: MallocInfo | None, stats: MallocStats | None, lists: ProcessLists
) -> tuple[Difference, ...]:
    """Every figure on which glibc and ``lists``, read from the same memory, differ; empty when they
    agree exactly.

    Raises BadInput when malloc_info's document contradicts itself.
    """
    differences: list[Difference] = []
    if info is not None:
        differences += _compare_info(info, lists)
    if stats is not None:
        differences += _compare_stats(stats, lists)
    return tuple(differences)


def wrapped(stats: MallocStats, lists: ProcessLists) -> tuple[str, ...]:
    """One sentence for each figure of malloc_stats that passed 4 GiB and was printed without its
    upper bits.
    """
    notes = []
    for index, pair in _stats_pairs(stats, lists):
        if pair.ours >= WRAP and pair.glibc == pair.ours % WRAP:
            place = "in all" if index is None else f"in arena {index}"
            notes.append(
                f"{pair.figure} {place} is {pair.ours}; malloc_stats wrapped around at 4 GiB"
                f" and prints {pair.glibc}"
            )
    return tuple(notes)


def in_use_bytes(arena: ArenaLists) -> int:
    """What malloc_stats calls in use: all of the arena that is on no free list and not in top (so
    tcache included).
    """
    return arena.system_bytes - arena.fast_bytes - arena.bin_back_bytes - arena.top_bytes


def _compare_info(info: MallocInfo, lists: ProcessLists) -> Iterator[Difference]:
    yield from _unequal(None, [_Pair("arena_count", len(info.heaps), len(lists.arenas))], _INFO)
    free = corrected(info)
    for heap, truth, ours in zip(info.heaps, free, lists.arenas, strict=False):
        why = _GARBAGE if has_garbage(heap) else _INFO
        yield from _unequal(ours.index, _free_pairs(truth, ours), why)
        yield from _unequal(ours.index, _space_pairs(heap, ours), _INFO)
    if len(info.heaps) == len(lists.arenas):
        why = _GARBAGE if any(map(has_garbage, info.heaps)) else _INFO
        yield from _unequal(None, _total_pairs(info, free, lists), why)


def _free_pairs(truth: FreeOfArena, ours: ArenaLists) -> list[_Pair]:
    pairs = [
        _Pair("bin_count", truth.bin_count, ours.bin_count),
        _Pair("bin_bytes", truth.bin_bytes, _bin_bytes(ours)),
        _Pair("fast_count", truth.fast_count or 0, ours.fast_count),
        _Pair("fast_bytes", truth.fast_bytes or 0, ours.fast_bytes),
    ]
    if truth.top_bytes is not None:
        pairs.append(_Pair("top_bytes", truth.top_bytes, ours.top_bytes))
    return pairs


def _bin_bytes(ours: ArenaLists) -> int:
    """The size words of the binned chunks, one flag bit taken off each: their bytes, unless one was
    being changed.
    """
    return (ours.bin_word_bytes - ours.bin_count) % _WORD


def _space_pairs(heap: InfoHeap, ours: ArenaLists) -> list[_Pair]:
    pairs = [
        _Pair("system_bytes", heap.system_bytes, ours.system_bytes),
        _Pair("max_system_bytes", heap.max_system_bytes, ours.max_system_bytes),
    ]
    if _covers_all_heaps(heap, ours):
        pairs += [
            _Pair("aspace_bytes", heap.aspace_bytes, ours.aspace_bytes),
            _Pair("aspace_mprotect_bytes", heap.aspace_mprotect_bytes, ours.aspace_mprotect_bytes),
        ]
    if heap.subheap_count is not None:
        pairs.append(_Pair("subheap_count", heap.subheap_count, ours.subheap_count))
    return pairs


def _covers_all_heaps(heap: InfoHeap, ours: ArenaLists) -> bool:
    """Versions that print no number of heaps print the address space of the newest heap only (main
    has none).
    """
    return heap.index == 0 or heap.subheap_count is not None or ours.subheap_count == 1


def _total_pairs(
    info: MallocInfo, free: tuple[FreeOfArena, ...], lists: ProcessLists
) -> list[_Pair]:
    arenas = lists.arenas
    bin_count = sum(truth.bin_count for truth in free)
    top_count = sum(truth.top_bytes is not None for truth in free)
    rest_bytes = sum(
        _bin_bytes(ours) + (0 if truth.top_bytes is None else ours.top_bytes)
        for truth, ours in zip(free, arenas, strict=True)
    )
    pairs = [
        _Pair("has_fastbins", info.fast_count is not None, lists.has_fastbins),
        _Pair("fast_count", info.fast_count or 0, sum(a.fast_count for a in arenas)),
        _Pair("fast_bytes", info.fast_bytes or 0, sum(a.fast_bytes for a in arenas)),
        _Pair("bin_count", info.rest_count - top_count, sum(a.bin_count for a in arenas)),
        _Pair("rest_bytes", (info.rest_bytes - bin_count) % _WORD, rest_bytes % _WORD),
        _Pair("system_bytes", info.system_bytes, sum(a.system_bytes for a in arenas)),
        _Pair("max_system_bytes", info.max_system_bytes, sum(a.max_system_bytes for a in arenas)),
    ]
    if all(map(_covers_all_heaps, info.heaps, arenas)):
        mprotect_bytes = sum(a.aspace_mprotect_bytes for a in arenas)
        pairs += [
            _Pair("aspace_bytes", info.aspace_bytes, sum(a.aspace_bytes for a in arenas)),
            _Pair("aspace_mprotect_bytes", info.aspace_mprotect_bytes, mprotect_bytes),
        ]
    if info.mmap_count is not None and info.mmap_bytes is not None:
        pairs += [
            _Pair("mmap_count", info.mmap_count, lists.mmap_count),
            _Pair("mmap_bytes", info.mmap_bytes, lists.mmap_bytes),
        ]
    return pairs


def _compare_stats(stats: MallocStats, lists: ProcessLists) -> Iterator[Difference]:
    yield from _unequal(None, [_Pair("arena_count", len(stats.arenas), len(lists.arenas))], _STATS)
    for index, (figure, glibc, ours) in _stats_pairs(stats, lists):
        yield from _unequal(index, [_Pair(figure, glibc, ours % WRAP)], _STATS)
    bytes_pair = _Pair("max_mmap_bytes", stats.max_mmap_bytes, lists.max_mmap_bytes)
    yield from _unequal(None, [bytes_pair], _STATS)


def _stats_pairs(stats: MallocStats, lists: ProcessLists) -> Iterator[tuple[int | None, _Pair]]:
    """Each figure that malloc_stats prints modulo 2**32, beside our whole one."""
    for printed, ours in zip(stats.arenas, lists.arenas, strict=False):
        yield ours.index, _Pair("system_bytes", printed.system_bytes, ours.system_bytes)
        yield ours.index, _Pair("in_use_bytes", printed.in_use_bytes, in_use_bytes(ours))
    if len(stats.arenas) == len(lists.arenas):
        system_bytes = lists.mmap_bytes + sum(a.system_bytes for a in lists.arenas)
        in_use = lists.mmap_bytes + sum(map(in_use_bytes, lists.arenas))
        yield None, _Pair("system_bytes", stats.total_system_bytes, system_bytes)
        yield None, _Pair("in_use_bytes", stats.total_in_use_bytes, in_use)
    yield None, _Pair("max_mmap_count", stats.max_mmap_regions, lists.max_mmap_count)


def _unequal(index: int | None, pairs: Iterable[_Pair], explanation: str) -> Iterator[Difference]:
    for pair in pairs:
        if pair.glibc != pair.ours:
            yield Difference(index, pair.figure, int(pair.glibc), int(pair.ours), explanation)
