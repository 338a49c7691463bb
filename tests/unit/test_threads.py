"""Each thread's arena and tcache, found in made-up thread control blocks."""

from __future__ import annotations

import pytest
from unit.mallocs import LIBC_RODATA, PAGE, RELEASES, STACKS, Malloc, Thread

from allocscope.files.spans import SpanMemory
from allocscope.glibc.abi import WIDE
from allocscope.glibc.layouts import (
    TCACHE_1,
    TCACHE_2,
    TCACHE_3,
    TCACHE_4,
    TCACHE_5,
    TCACHE_6,
    tcache_layout,
)
from allocscope.glibc.threads import (
    ThreadHead,
    ThreadSlots,
    ThreadState,
    find_slots,
    find_tcbs,
    parse_tcache,
    read_threads,
)

LAYOUTS = [
    tcache_layout(struct, WIDE)
    for struct in (TCACHE_1, TCACHE_2, TCACHE_3, TCACHE_4, TCACHE_5, TCACHE_6)
]
T4, T6 = LAYOUTS[3], LAYOUTS[5]


def heads(malloc: Malloc) -> list[ThreadHead]:
    return [ThreadHead(t.tid, "x", t.tcb + Thread.ROBUST_LIST_OFFSET) for t in malloc.threads]


def in_heap(malloc: Malloc, address: int) -> bool:
    return any(start <= address < end for start, end in malloc.spans)


def read(malloc: Malloc, memory: SpanMemory) -> tuple[ThreadSlots, list[ThreadState]]:
    tcbs = find_tcbs(memory, heads(malloc))
    arenas = {arena.address for arena in malloc.arenas}
    fill = malloc.release.fill
    slots = find_slots(memory, tcbs, arenas, lambda a: in_heap(malloc, a), LAYOUTS, fill)
    return slots, read_threads(memory, heads(malloc), tcbs, slots, arenas, fill)


def a_malloc(version: str = "2.36", threads: int = 3) -> Malloc:
    malloc = Malloc(version)
    for _ in range(threads):
        thread = malloc.thread(malloc.arena())
        thread.make_tcache(malloc.release.tcache_chunk)
        thread.park(thread.arena.row, 0x40)
        thread.park(thread.arena.row, 0x40)
        thread.arena.end_at_page()
    malloc.main.row.live(0x100)
    malloc.main.end_at_page()
    return malloc


# ---- thread pointers ----


def test_thread_pointers_from_robust_lists() -> None:
    malloc = a_malloc().write()
    with malloc.memory() as memory:
        assert find_tcbs(memory, heads(malloc)) == {t.tid: t.tcb for t in malloc.threads}
        assert find_tcbs(memory, []) == {}


@pytest.mark.parametrize("robust_list", [0, 8, 0x300, STACKS, 1 << 63, (1 << 64) - 8])
def test_a_robust_list_that_glibc_did_not_make(robust_list: int) -> None:
    malloc = a_malloc().write()
    strange = ThreadHead(1, "strange", robust_list)
    with malloc.memory() as memory:
        found = find_tcbs(memory, [strange, *heads(malloc), strange])
        assert found == {t.tid: t.tcb for t in malloc.threads}


def test_a_thread_control_block_without_its_page() -> None:
    malloc = a_malloc().write()
    page = malloc.threads[1].tcb // PAGE * PAGE
    malloc.image.state(page, page + 2 * PAGE, 0)
    with malloc.memory() as memory:
        slots, states = read(malloc, memory)
    assert slots.tcache_offset == Thread.TCACHE_OFFSET
    assert states[1] == ThreadState(101, "x", None, None)
    assert states[2].arena == malloc.threads[2].arena.address


# ---- where the two variables lie ----


WITH_TCACHE = [version for version, release in RELEASES.items() if release.tcache_bins]


@pytest.mark.parametrize("version", WITH_TCACHE)
def test_the_offsets_are_those_that_most_threads_show(version: str) -> None:
    malloc = a_malloc(version).write()
    first = malloc.threads[0]
    malloc.image.words(first.tcb - 0x200, first.arena.address, first.tcache)  # a stale copy
    with malloc.memory() as memory:
        slots, states = read(malloc, memory)
    assert (slots.arena_offset, slots.tcache_offset) == (-56, -72)
    assert slots.layout is not None
    assert slots.layout.slot_count == malloc.release.tcache_bins
    assert slots.layout.counter_bytes == malloc.release.counter_bytes
    told = {None: None, 0: True}  # by zeros nothing is told
    assert slots.key_is_address == told.get(malloc.release.key, False)
    for thread, state in zip(malloc.threads, states, strict=True):
        assert state.arena == thread.arena.address
        assert state.tcache is not None
        assert state.tcache.address == thread.tcache
        assert state.tcache.counts[2] == 2
        assert state.tcache.heads[2] == thread.bins[2][0]
        assert sum(state.tcache.counts) == 2


def test_what_every_threads_stack_holds_alike_is_not_mistaken_for_the_variables() -> None:
    malloc = a_malloc(threads=8).write()
    for thread in malloc.threads:
        malloc.image.words(thread.tcb - 0x9F8, thread.tcache, thread.arena.address)
    with malloc.memory() as memory:
        slots, states = read(malloc, memory)
    assert (slots.arena_offset, slots.tcache_offset) == (-56, -72)
    assert all(state.tcache is not None for state in states)


def test_the_tcaches_chunk_may_be_16_bytes_larger() -> None:
    for version, size in (("2.36", 0x2A0), ("2.42", 0x310), ("2.43", 0x320)):
        malloc = Malloc(version)
        thread = malloc.thread()
        thread.make_tcache(size)
        malloc.main.end_at_page()
        malloc.write()
        with malloc.memory() as memory:
            _, [state] = read(malloc, memory)
        assert state.tcache is not None
        assert state.tcache.chunk == malloc.main.row.first


@pytest.mark.parametrize("pointer", [LIBC_RODATA, LIBC_RODATA + 0x20, LIBC_RODATA + 8])
def test_the_dummy_of_a_thread_that_has_not_freed_yet(pointer: int) -> None:
    """From 2.43 such a thread's pointer leads to zeros in libc's read-only data, or 8 behind."""
    malloc = a_malloc("2.43")
    malloc.threads[0].tcache = pointer
    malloc.threads[0].bins.clear()
    malloc.write()
    with malloc.memory() as memory:
        _, states = read(malloc, memory)
    assert [state.tcache is not None for state in states] == [False, True, True]


@pytest.mark.parametrize("pointer", [8, 16, 1 << 63, (1 << 64) - 16, 0x7F0000000000])
def test_a_pointer_to_where_no_tcache_is(pointer: int) -> None:
    malloc = a_malloc().write()
    first = malloc.threads[0]
    malloc.image.words(first.tcb + Thread.TCACHE_OFFSET, pointer)
    malloc.image.words(first.tcb + Thread.ARENA_OFFSET, pointer)
    with malloc.memory() as memory:
        _, states = read(malloc, memory)
    assert states[0] == ThreadState(100, "x", None, None)
    assert states[1].tcache is not None


def test_no_thread_shows_anything() -> None:
    malloc = Malloc()
    malloc.thread()
    malloc.thread()
    malloc.main.row.live(0x100)
    malloc.main.end_at_page()
    malloc.write()
    for thread in malloc.threads:
        malloc.image.words(thread.tcb + Thread.ARENA_OFFSET, 0)
    with malloc.memory() as memory:
        slots, states = read(malloc, memory)
    assert (slots.arena_offset, slots.tcache_offset) == (None, None)
    assert all(state.arena is None and state.tcache is None for state in states)


# ---- the struct ----


def struct_of(
    numbers: dict[int, int], pointers: dict[int, int], *, free_slots: int | None
) -> bytes:
    """A tcache's bytes; ``free_slots``: what an empty bin's counter says (None: counts from 0)."""
    bins = 64 if free_slots is None else 76
    counts = [numbers.get(i, free_slots or 0) for i in range(bins)]
    data = b"".join(count.to_bytes(2, "little") for count in counts)
    return data + b"".join(pointers.get(i, 0).to_bytes(8, "little") for i in range(bins))


def test_counters_that_count_what_is_held() -> None:
    data = struct_of({0: 3, 63: 7}, {0: 0x5010, 63: 0x6010}, free_slots=None)
    found = parse_tcache(1, 0x1010, data, T4, 7)
    assert found is not None
    assert (found.counts[0], found.counts[1], found.counts[63]) == (3, 0, 7)
    assert (found.heads[0], found.heads[63]) == (0x5010, 0x6010)


def test_counters_that_count_what_is_free() -> None:
    data = struct_of({0: 13, 75: 0}, {0: 0x5010, 75: 0x6010}, free_slots=16)
    found = parse_tcache(1, 0x1010, data, T6, 16)
    assert found is not None
    assert (found.counts[0], found.counts[1], found.counts[75]) == (3, 0, 16)


def test_a_thread_keeps_the_fill_that_was_in_force_when_it_made_its_tcache() -> None:
    data = struct_of({0: 13}, {0: 0x5010}, free_slots=16)
    found = parse_tcache(1, 0x1010, data, T6, 7)
    assert found is not None
    assert found.counts[0] == 3


@pytest.mark.parametrize(
    ("numbers", "pointers"),
    [
        ({0: 1}, {}),
        ({}, {0: 0x5010}),
        ({0: 1}, {0: 0x5018}),
        ({0: 1}, {0: 1 << 48}),
        ({5: 1}, {6: 0x5010}),
    ],
    ids=["no chunk", "no count", "unaligned", "no address", "another bin"],
)
def test_bytes_that_are_no_tcache(numbers: dict[int, int], pointers: dict[int, int]) -> None:
    data = struct_of(numbers, pointers, free_slots=None)
    assert parse_tcache(1, 0x1010, data, T4, 7) is None


# ---- before there was a tcache, and when nothing lies in it ----


def test_a_release_without_a_tcache_has_arenas_only() -> None:
    malloc = a_malloc("2.23").write()
    tcbs = {thread.tid: thread.tcb for thread in malloc.threads}
    arenas = {arena.address for arena in malloc.arenas}
    with malloc.memory() as memory:
        slots = find_slots(memory, tcbs, arenas, lambda a: in_heap(malloc, a), [], 0)
        states = read_threads(memory, heads(malloc), tcbs, slots, arenas, 0)
    assert slots == ThreadSlots(None, Thread.ARENA_OFFSET, None, None)
    assert [(state.arena, state.tcache) for state in states] == [
        (thread.arena.address, None) for thread in malloc.threads
    ]


def test_empty_tcaches_show_no_keys() -> None:
    malloc = Malloc("2.36")
    malloc.thread().make_tcache(0x290)
    malloc.main.end_at_page()
    malloc.write()
    with malloc.memory() as memory:
        slots, _ = read(malloc, memory)
    assert (slots.tcache_offset, slots.key_is_address) == (Thread.TCACHE_OFFSET, None)


def test_a_thread_pointer_that_is_known_needs_no_robust_list() -> None:
    malloc = a_malloc().write()
    known = [ThreadHead(t.tid, "x", 0, t.tcb) for t in malloc.threads]
    with malloc.memory() as memory:
        assert find_tcbs(memory, known) == {t.tid: t.tcb for t in malloc.threads}
        assert find_tcbs(memory, [ThreadHead(1, "x", 0, STACKS + 8)]) == {}
