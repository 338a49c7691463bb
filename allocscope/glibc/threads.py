"""Each thread's arena and tcache, found without symbols and without a stop.

The kernel tells where a thread keeps its robust futex list; glibc keeps that list inside the
thread's descriptor. On x86 the thread pointer points to that descriptor, whose first and third word
point to itself (a core tells the thread pointer at once: the base of fs or gs); below it lies
static TLS. On aarch64 the thread pointer points behind the descriptor, and TLS lies above it; the
descriptor does not name itself, so there the robust list itself is what offsets are counted from.
In static TLS, at the same offset in every thread, lie libc's variables ``thread_arena`` and
``tcache``. The offsets are found by what the words point to: an arena, and a chunk of the tcache's
size whose contents fit.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from allocscope.glibc.layouts import TcacheLayout
from allocscope.glibc.mmapped import IS_MMAPPED, PAGE
from allocscope.glibc.protocols import Memory
from allocscope.glibc.states import CHUNK_FLAGS
from allocscope.immutable import immutable
from allocscope.typed import Any

TCB_SEARCH_BYTES = 0x500
DESCRIPTOR_BYTES = 4096
"""A thread's descriptor is smaller than this (struct pthread: less than 2400 bytes)."""
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
    (user pointers). ``chunk``: the chunk that the struct itself lies in."""

    tid: int
    address: int
    counts: tuple[int, ...]
    heads: tuple[int, ...]
    raw: bytes
    chunk: int


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
    if distance is not None:
        return [thread.robust_list - distance]
    nearest = thread.robust_list // 16 * 16
    return range(nearest, nearest - TCB_SEARCH_BYTES, -16)


def find_tcbs(memory: Memory, threads: Sequence[ThreadHead]) -> dict[int, int]:
    """Thread pointer of every thread that has one, or what stands for it: ``{tid: address}``."""
    if memory.abi.tls_above:
        anchors = {thread.tid: thread.thread_pointer or thread.robust_list for thread in threads}
        return {tid: anchor for tid, anchor in anchors.items() if anchor}
    found: dict[int, int] = {}
    word = memory.abi.word_bytes
    distance: int | None = None
    for thread in threads:
        for tcb in _places(thread, distance):
            [data] = memory.read_each([tcb], 3 * word)
            if data is None:
                break
            first, _, third = memory.abi.words(data, 0, 3)
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
    abi = layout.abi
    heads = abi.words(data, layout.entries, layout.slot_count)
    if layout.counts_free_slots:
        # a thread keeps the fill that was in force when it made its tcache
        most = max(*numbers, fill)
        counts = tuple(most - n for n in numbers)
        counts = tuple(c if h else 0 for c, h in zip(counts, heads, strict=True))
    else:
        counts = numbers
    for count, head in zip(counts, heads, strict=True):
        if (
            (count > 0) != (head != 0)
            or head % abi.alignment
            or count > MAX_DEFAULT_COUNT
            or head >> 48
        ):
            return None
    return Tcache(tid, address, counts, heads, data, address - abi.header_bytes)


def _size_words(memory: Memory, pointers: Sequence[int]) -> list[int]:
    word = memory.abi.word_bytes
    found = memory.read_each([pointer - word for pointer in pointers], word)
    return [0 if data is None else memory.abi.word(data) for data in found]


def _may_hold(size_word: int, layout: TcacheLayout) -> bool:
    """Can a tcache lie in a chunk with this size word? Of its own size; or, where a thread found no
    arena to take it from (no address space left for a heap), in a mapping of one page."""
    size, flags = size_word & ~CHUNK_FLAGS, size_word & CHUNK_FLAGS
    if flags == IS_MMAPPED:
        return layout.size <= size <= PAGE
    return size in layout.chunk_sizes


def read_tcache(
    memory: Memory, tid: int, pointer: int, layout: TcacheLayout | None, fill: int
) -> Tcache | None:
    """The tcache at ``pointer``, None where there is none of that layout."""
    [tcache] = _read_tcaches(memory, [(tid, pointer)], layout, fill)
    return tcache


def _read_tcaches(
    memory: Memory, pointers: Sequence[tuple[int, int]], layout: TcacheLayout | None, fill: int
) -> list[Tcache | None]:
    """What each ``(tid, pointer)`` leads to, None where that can be no tcache."""
    if layout is None:
        return [None] * len(pointers)
    words = _size_words(memory, [pointer for _, pointer in pointers])
    there = [
        pointer != 0 and pointer % layout.abi.alignment == 0 and _may_hold(word, layout)
        for (_, pointer), word in zip(pointers, words, strict=True)
    ]
    wanted = [pointer for (_, pointer), is_one in zip(pointers, there, strict=True) if is_one]
    found = iter(memory.read_each(wanted, layout.size))
    tcaches: list[Tcache | None] = []
    for (tid, pointer), is_one in zip(pointers, there, strict=True):
        data = next(found) if is_one else None
        tcaches.append(None if data is None else parse_tcache(tid, pointer, data, layout, fill))
    return tcaches


def tls_words(memory: Memory, tcb: int) -> dict[int, int]:
    """The words of static TLS by their offset from a thread pointer, negative on x86; fewer where a
    page is absent."""
    abi = memory.abi
    first, beyond = tcb - STATIC_TLS_BYTES, tcb
    if abi.tls_above:
        first, beyond = tcb, tcb + DESCRIPTOR_BYTES + STATIC_TLS_BYTES
    words: dict[int, int] = {}
    for start, end in memory.runs(first, beyond):
        low = max(start, first)
        [data] = memory.read_each([low], min(end, beyond) - low)
        if data is not None:
            for i, word in enumerate(abi.words(data, 0, len(data) // abi.word_bytes)):
                words[low + i * abi.word_bytes - tcb] = word
    return words


def _most(votes: Counter[Any]) -> int:
    return max(votes.values(), default=0)


def _elected(votes: Counter[Any], offset_of: Callable[[Any], int]) -> Any:
    """The choice with the most votes. A thread's stack ends where its static TLS begins, and what
    calls left there is alike in threads that do the same: of equals, the nearest one counts."""
    return max(votes, key=lambda choice: (votes[choice], -abs(offset_of(choice))))


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
        sizes = _size_words(memory, list(inside.values()))
        for (offset, word), size in zip(inside.items(), sizes, strict=True):
            for layout in layouts:
                if _may_hold(size, layout):
                    tcache = read_tcache(memory, tid, word, layout, fill)
                    if tcache is not None:
                        tcache_votes[layout.name, offset] += 1
                        parked.update((head, tcache.address) for head in tcache.heads if head)
        if _most(arena_votes) >= ENOUGH_VOTES and _most(tcache_votes) >= ENOUGH_VOTES:
            break
    arena_offset = _elected(arena_votes, lambda offset: offset) if arena_votes else None
    if not tcache_votes:
        return ThreadSlots(layouts[0] if layouts else None, arena_offset, None)
    name, tcache_offset = _elected(tcache_votes, lambda choice: choice[1])
    keyed = key_is_address(memory, sorted(parked))
    return ThreadSlots(by_name[name], arena_offset, tcache_offset, keyed)


def key_is_address(memory: Memory, parked: Sequence[tuple[int, int]]) -> bool | None:
    """Is the second word of parked chunks the address of the tcache that holds them? Each a user
    pointer and that address. What is there may be the program's last words, so the majority counts;
    zeros show nothing (a recording has no such words)."""
    word = memory.abi.word_bytes
    keys = memory.read_each([head + word for head, _ in parked], word)
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
        word = memory.abi.word_bytes
        found = memory.read_each([tcbs[thread.tid] + offset for thread in known], word)
        return [0 if data is None else memory.abi.word(data) for data in found]

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
