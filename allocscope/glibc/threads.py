"""Each thread's arena and tcache, found without symbols and without a stop.

The kernel tells where a thread keeps its robust futex list; glibc keeps that list inside the
thread's control block (TCB), whose first and third word point to itself. (A core tells the TCB's
address at once: the thread's fs_base.) Below the TCB lies static
TLS, and there, at the same offset in every thread, libc's variables ``thread_arena`` and
``tcache``. The offsets are found by what the words point to: an arena, and a chunk of the tcache's
size whose contents fit.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from allocscope.glibc.layouts import WORD, TcacheLayout
from allocscope.glibc.protocols import Memory
from allocscope.immutable import immutable

TCB_SEARCH_BYTES = 0x500
STATIC_TLS_BYTES = 4096
SAMPLE_THREADS = 64
ENOUGH_VOTES = 4
MAX_DEFAULT_COUNT = 65535


@immutable
class ThreadHead:
    """A thread as the kernel knows it; ``robust_list`` is 0 when it has none. ``thread_pointer`` is
    known only where the thread's registers are (a core)."""

    tid: int
    name: str
    robust_list: int
    thread_pointer: int = 0


@immutable
class Tcache:
    """One thread's tcache. ``counts`` is what each bin holds, ``heads`` each bin's first element
    (user pointers)."""

    tid: int
    address: int
    counts: tuple[int, ...]
    heads: tuple[int, ...]
    raw: bytes

    @property
    def chunk(self) -> int:
        """The chunk that the struct itself lies in."""
        return self.address - 2 * WORD


@immutable
class ThreadState:
    """A thread's malloc state. ``tcache`` is None where it has none yet (or no longer)."""

    tid: int
    name: str
    arena: int | None
    tcache: Tcache | None


@immutable
class ThreadSlots:
    """Where libc's two variables lie, relative to the thread pointer; None where no thread shows
    it. ``layout`` is None too where there is no tcache. ``key_is_address``: what the parked chunks
    show of TcacheLayout's field of that name, None without any."""

    layout: TcacheLayout | None
    arena_offset: int | None
    tcache_offset: int | None
    key_is_address: bool | None = None


def _places(thread: ThreadHead, distance: int | None) -> Iterable[int]:
    """Where the TCB may be: all robust lists are equally far from theirs."""
    if thread.thread_pointer:
        return [thread.thread_pointer]
    if not thread.robust_list:
        return []
    guesses = range(0, TCB_SEARCH_BYTES, 16) if distance is None else [distance]
    return (thread.robust_list - back for back in guesses)


def find_tcbs(memory: Memory, threads: Sequence[ThreadHead]) -> dict[int, int]:
    """Thread pointer of every thread that has one: ``{tid: address}``."""
    found: dict[int, int] = {}
    distance: int | None = None
    for thread in threads:
        for tcb in _places(thread, distance):
            [data] = memory.read_each([tcb], 3 * WORD)
            if data is None:
                break
            first, _, third = struct.unpack("<3Q", data)
            if first == tcb == third:
                distance = thread.robust_list - tcb if thread.robust_list else None
                found[thread.tid] = tcb
                break
    return found


def parse_tcache(
    tid: int, address: int, data: bytes, layout: TcacheLayout, fill: int
) -> Tcache | None:
    """A tcache from its bytes, None when they cannot be one. ``fill``: ``mp_.tcache_count``, what a
    bin may hold."""
    counter = "B" if layout.counter_bytes == 1 else "H"
    numbers = struct.unpack_from(f"<{layout.slot_count}{counter}", data, 0)
    heads = struct.unpack_from(f"<{layout.slot_count}Q", data, layout.entries)
    if layout.counts_free_slots:
        # a thread keeps the fill that was in force when it made its tcache
        most = max(*numbers, fill)
        counts = tuple(most - n for n in numbers)
        counts = tuple(c if h else 0 for c, h in zip(counts, heads, strict=True))
    else:
        counts = numbers
    for count, head in zip(counts, heads, strict=True):
        if (count > 0) != (head != 0) or head % 16 or count > MAX_DEFAULT_COUNT or head >> 47:
            return None
    return Tcache(tid, address, counts, heads, data)


def _chunk_sizes(memory: Memory, pointers: Sequence[int]) -> list[int]:
    words = memory.read_each([pointer - WORD for pointer in pointers], WORD)
    return [0 if word is None else int.from_bytes(word, "little") & ~7 for word in words]


def _read_tcaches(
    memory: Memory, pointers: Sequence[tuple[int, int]], layout: TcacheLayout | None, fill: int
) -> list[Tcache | None]:
    """What each ``(tid, pointer)`` leads to, None where that can be no tcache."""
    if layout is None:
        return [None] * len(pointers)
    sizes = _chunk_sizes(memory, [pointer for _, pointer in pointers])
    there = [
        pointer != 0 and pointer % 16 == 0 and size in layout.chunk_sizes
        for (_, pointer), size in zip(pointers, sizes, strict=True)
    ]
    wanted = [pointer for (_, pointer), is_one in zip(pointers, there, strict=True) if is_one]
    found = iter(memory.read_each(wanted, layout.size))
    tcaches: list[Tcache | None] = []
    for (tid, pointer), is_one in zip(pointers, there, strict=True):
        data = next(found) if is_one else None
        tcaches.append(None if data is None else parse_tcache(tid, pointer, data, layout, fill))
    return tcaches


def tls_words(memory: Memory, tcb: int) -> dict[int, int]:
    """The words of static TLS below a thread pointer, by (negative) offset; shorter where a page is
    absent."""
    words: dict[int, int] = {}
    for start, end in memory.runs(tcb - STATIC_TLS_BYTES, tcb):
        low = max(start, tcb - STATIC_TLS_BYTES)
        [data] = memory.read_each([low], min(end, tcb) - low)
        if data is not None:
            for i, (word,) in enumerate(struct.iter_unpack("<Q", data[: len(data) // WORD * WORD])):
                words[low + i * WORD - tcb] = word
    return words


def _most(votes: Counter[Any]) -> int:
    return max(votes.values(), default=0)


def find_slots(
    memory: Memory,
    tcbs: dict[int, int],
    arenas: set[int],
    in_heap: Callable[[int], bool],
    layouts: Sequence[TcacheLayout],
    fill: int,
) -> ThreadSlots:
    """Where ``thread_arena`` and ``tcache`` lie, and which tcache layout fits (the first of
    ``layouts`` when no thread has one; those that differ only in the key fit alike)."""
    arena_votes: Counter[int] = Counter()
    tcache_votes: Counter[tuple[str, int]] = Counter()
    by_name = {layout.name: layout for layout in layouts}
    parked: set[tuple[int, int]] = set()
    for tid, tcb in list(tcbs.items())[:SAMPLE_THREADS]:
        words = tls_words(memory, tcb)
        arena_votes.update(offset for offset, word in words.items() if word in arenas)
        inside = {o: word for o, word in words.items() if in_heap(word) and word not in arenas}
        sizes = _chunk_sizes(memory, list(inside.values()))
        for (offset, word), size in zip(inside.items(), sizes, strict=True):
            for layout in layouts:
                if size in layout.chunk_sizes:
                    [tcache] = _read_tcaches(memory, [(tid, word)], layout, fill)
                    if tcache is not None:
                        tcache_votes[layout.name, offset] += 1
                        parked.update((head, tcache.address) for head in tcache.heads if head)
        if _most(arena_votes) >= ENOUGH_VOTES and _most(tcache_votes) >= ENOUGH_VOTES:
            break
    arena_offset = arena_votes.most_common(1)[0][0] if arena_votes else None
    if not tcache_votes:
        return ThreadSlots(layouts[0] if layouts else None, arena_offset, None)
    (name, tcache_offset), _ = tcache_votes.most_common(1)[0]
    keyed = _key_is_address(memory, sorted(parked))
    return ThreadSlots(by_name[name], arena_offset, tcache_offset, keyed)


def _key_is_address(memory: Memory, parked: Sequence[tuple[int, int]]) -> bool | None:
    """Is the second word of parked chunks the address of the tcache that holds them? Each a user
    pointer and that address. What is there may be the program's last words, so the majority counts;
    zeros show nothing (a recording has no such words)."""
    keys = memory.read_each([head + WORD for head, _ in parked], WORD)
    alike = [
        int.from_bytes(key, "little") == address
        for key, (_, address) in zip(keys, parked, strict=True)
        if key is not None and any(key)
    ]
    return 2 * sum(alike) > len(alike) if alike else None


def read_threads(
    memory: Memory,
    threads: Sequence[ThreadHead],
    tcbs: dict[int, int],
    slots: ThreadSlots,
    arenas: set[int],
    fill: int,
) -> list[ThreadState]:
    """Every thread's arena and tcache as they stand now."""
    known = [thread for thread in threads if thread.tid in tcbs]

    def words(offset: int | None) -> list[int]:
        if offset is None:
            return [0] * len(known)
        found = memory.read_each([tcbs[thread.tid] + offset for thread in known], WORD)
        return [0 if data is None else int.from_bytes(data, "little") for data in found]

    pointers = zip((thread.tid for thread in known), words(slots.tcache_offset), strict=True)
    tcaches = _read_tcaches(memory, list(pointers), slots.layout, fill)
    states: dict[int, ThreadState] = {}
    for thread, arena, tcache in zip(known, words(slots.arena_offset), tcaches, strict=True):
        states[thread.tid] = ThreadState(
            thread.tid, thread.name, arena if arena in arenas else None, tcache
        )
    return [
        states.get(thread.tid, ThreadState(thread.tid, thread.name, None, None))
        for thread in threads
    ]
