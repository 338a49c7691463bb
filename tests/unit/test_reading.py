"""Reading a whole made-up malloc, sound ones first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from unit.heaps import PAGE, SWAPPED
from unit.mallocs import MAPPINGS, RELEASES, Arena, Malloc, furnished

from allocscope.account import arenas as account
from allocscope.files.spans import SpanMemory
from allocscope.glibc.reading import HeapReading, read_heap
from allocscope.glibc.states import InvalidHeap
from allocscope.model.heap import Figures
from allocscope.model.walk import Region, Tally


def read(malloc: Malloc, **options: object) -> HeapReading:
    malloc.write()
    with malloc.memory() as memory:
        return read_heap(
            malloc.subject(memory),
            **{"version": malloc.version, "expired": lambda: False, **options},  # type: ignore[arg-type]
        )


def figures_of(reading: HeapReading, index: int) -> Figures:
    return account.arena(reading.arenas[index], None, "validated").figures


def assert_sound(malloc: Malloc, reading: HeapReading) -> None:
    """Every arena validated, and its figures are those of the chunks that were put in."""
    assert [item.state.address for item in reading.arenas] == [a.address for a in malloc.arenas]
    for index, arena in enumerate(malloc.arenas):
        assert reading.arenas[index].problems == ()
        assert_figures(malloc, arena, figures_of(reading, index))


def assert_figures(malloc: Malloc, arena: Arena, found: Figures) -> None:
    is_main = arena is malloc.main
    overhead = found.overhead
    assert found.system_bytes == malloc.system_bytes(arena)
    assert (found.live_count, found.live_bytes) == (arena.count("live"), arena.bytes("live"))
    assert (found.tcache_count, found.tcache_bytes) == (
        arena.count("tcache"),
        arena.bytes("tcache"),
    )
    assert found.fastbin_count == arena.count("fastbin")
    assert found.fastbin_bytes == arena.bytes("fastbin")
    assert (found.bin_count, found.bin_bytes) == (arena.count("bin"), arena.bytes("bin"))
    assert found.top_bytes == arena.bytes("top")
    assert overhead.tcache_struct_bytes == arena.bytes("tcache_struct")
    assert overhead.fencepost_bytes == arena.bytes("fencepost")
    assert overhead.arena_headers_bytes == malloc.header_bytes(arena)
    assert overhead.alignment_bytes == malloc.alignment_bytes(arena)
    assert overhead.foreign_brk_bytes == (malloc.foreign_bytes if is_main else 0)
    assert found.unread_bytes == 0
    assert found.residue_bytes == 0
    pages = sum(-(-row.end // PAGE) - row.first // PAGE for row in arena.rows)
    assert found.resident_bytes == pages * PAGE


@pytest.mark.parametrize("version", RELEASES)
def test_one_of_everything(version: str) -> None:
    malloc = furnished(version)
    reading = read(malloc)
    assert_sound(malloc, reading)
    assert reading.rounds == 1
    assert reading.safe_linking == malloc.release.mangled
    assert version in reading.layout.versions
    assert reading.mmapped == tuple(malloc.mappings)
    assert reading.parked.broken == ()
    assert [(t.tid, t.arena) for t in reading.threads] == [
        (t.tid, t.arena.address) for t in malloc.threads
    ]
    assert [t.tcache.address if t.tcache else 0 for t in reading.threads] == [
        t.tcache for t in malloc.threads
    ]
    by_tid = {t.tid: len(list(reading.parked.of(t.tid))) for t in reading.threads}
    assert {tid: count for tid, count in by_tid.items() if count} == (
        {100: 5, 101: 1} if malloc.release.tcache_bins else {}
    )


@pytest.mark.parametrize("version", RELEASES)
def test_the_layout_is_probed_whatever_the_library_says(version: str) -> None:
    malloc = furnished(version)
    rows = {read(malloc, version=said).layout for said in (None, "2.17", "2.31", "2.44")}
    own = {row for row in rows if version in row.versions}
    # what the made-up process does not show is taken from the version: 2.43 and 2.44 alone
    assert own and (own == rows or malloc.release.state["size"] == 2112)


# ---- while it goes on ----


class Running(SpanMemory):
    """A malloc whose process goes on while it is read: after each walk, ``act`` is called with this
    object and the number of walks so far."""

    def __init__(self, malloc: Malloc, act: Callable[[Running, int], None]) -> None:
        self.bytes = {start: bytearray(data) for start, data in malloc.image.spans().items()}
        self.walks: list[int] = []
        self.act = act
        super().__init__(self.bytes, malloc.image.runs(), "a running process")

    def poke(self, address: int, value: int) -> None:
        page = self.bytes[address // PAGE * PAGE]
        page[address % PAGE : address % PAGE + 8] = value.to_bytes(8, "little")

    def walk(self, region: Region) -> Tally:
        tally = super().walk(region)
        self.walks.append(region.start)
        self.act(self, len(self.walks))
        return tally


def read_running(
    malloc: Malloc, act: Callable[[Running, int], None], **options: Any
) -> tuple[HeapReading, Running]:
    malloc.write()
    with Running(malloc, act) as memory:
        subject = malloc.subject(memory)
        told = {"version": malloc.version, "expired": lambda: False, **options}
        return read_heap(subject, **told), memory


def binmap(malloc: Malloc) -> int:
    """A word of main_arena's header that the reading compares and nothing follows."""
    return malloc.main_arena + malloc.release.state["bins"] + 254 * 8


@pytest.mark.parametrize("version", ["2.36", "2.44"])
def test_an_arena_that_changed_once_is_read_again(version: str) -> None:
    malloc = furnished(version)

    def act(memory: Running, walks: int) -> None:
        if walks == 1:
            memory.poke(binmap(malloc), 5)

    reading, memory = read_running(malloc, act)
    assert_sound(malloc, reading)
    assert reading.rounds == 2
    first = malloc.main.row.first // PAGE * PAGE
    others = [heap for arena in malloc.arenas[1:] for heap in arena.heaps]
    assert sorted(memory.walks) == sorted([first, first, *others])


def test_an_arena_that_never_settles_is_named_and_the_others_are_sound() -> None:
    malloc = furnished("2.36")
    reading, _ = read_running(malloc, lambda memory, walks: memory.poke(binmap(malloc), walks))
    main, *others = reading.arenas
    assert main.problems == ("it changed while it was read",)
    assert main.changed
    assert all(item.problems == () for item in others)
    assert reading.rounds == 2  # the second gained nothing
    assert account.arena(main, None, "validated").consistency == "partial"
    assert account.arena(others[0], None, "validated").consistency == "validated"
    assert_figures(malloc, malloc.main, figures_of(reading, 0))


@pytest.mark.parametrize("reason", ["deadline", "one round"])
def test_no_further_round_without_time_or_leave(reason: str) -> None:
    malloc = furnished("2.36")
    reading, _ = read_running(
        malloc,
        lambda memory, walks: memory.poke(binmap(malloc), walks),
        expired=lambda: reason == "deadline",
        max_rounds=1 if reason == "one round" else 5,
    )
    assert reading.rounds == 1
    assert reading.arenas[0].problems


def test_a_new_arena_appears_while_the_others_are_read() -> None:
    malloc = furnished("2.36")
    state = malloc.release.state
    new = malloc.arena()
    new.row.live(0x100)
    new.end_at_page()
    malloc.write()
    malloc.image.words(malloc.main_arena + state["next"], malloc.arenas[2].address)

    def act(memory: Running, walks: int) -> None:
        memory.poke(malloc.main_arena + state["next"], new.address)

    with Running(malloc, act) as memory:
        subject = malloc.subject(memory)
        assert subject.located.arena_count == 3
        reading = read_heap(subject, version="2.36", expired=lambda: False)
    assert reading.rounds == 2
    assert [item.index for item in reading.arenas] == [0, 1, 2, 3]
    assert_sound(malloc, reading)


def test_a_tcache_that_changes_unsettles_the_arenas_of_its_chunks_only() -> None:
    malloc = furnished("2.36")
    worker = malloc.threads[1]  # its tcache and its one chunk lie in the arena that came first
    entry = worker.tcache + 128 + 8 * ((0x110 - 32) // 16)
    counter = worker.tcache // 8 * 8 + (0x110 - 32) // 16 * 2 // 8 * 8

    def act(memory: Running, walks: int) -> None:
        memory.poke(entry, 0)
        memory.poke(counter, 0)

    reading, _ = read_running(malloc, act, max_rounds=1)
    assert [bool(item.problems) for item in reading.arenas] == [False, False, True]
    assert reading.arenas[2].changed
    reading, _ = read_running(malloc, act)
    assert all(not item.problems for item in reading.arenas)
    again = figures_of(reading, 2)
    assert again.tcache_count == malloc.arenas[2].count("tcache") - 1
    assert again.residue_bytes == 0


def test_a_frozen_copy_is_read_once_and_only_its_sums_are_asked() -> None:
    malloc = furnished("2.36")
    reading, _ = read_running(
        malloc, lambda memory, walks: memory.poke(binmap(malloc), walks), frozen=True
    )
    assert reading.rounds == 1
    assert all(not item.problems and not item.changed for item in reading.arenas)
    malloc = furnished("2.36").write()
    free = malloc.main.row.addresses("bin")[0]
    malloc.image.words(free + 16, malloc.main_arena)
    with malloc.memory() as memory:
        reading = read_heap(
            malloc.subject(memory), version="2.36", expired=lambda: False, frozen=True
        )
    assert reading.arenas[0].problems == ("its free lists and its chunks tell different things",)
    assert not reading.arenas[0].changed


# ---- damaged, and standing still ----


def read_damaged(malloc: Malloc) -> HeapReading:
    with malloc.memory() as memory:
        return read_heap(malloc.subject(memory), version="2.36", expired=lambda: False)


def test_a_swapped_page_of_headers_is_unread_and_the_sum_still_closes() -> None:
    malloc = furnished("2.36").write()
    arena = malloc.arenas[2]
    start = arena.heaps[0] + 0x5000
    malloc.image.state(start, start + PAGE, SWAPPED)
    reading = read_damaged(malloc)
    found = figures_of(reading, 2)
    assert found.unread_bytes > 0
    assert found.residue_bytes == 0
    assert "the chain of chunks is interrupted" in reading.arenas[2].problems
    assert not reading.arenas[2].changed
    assert found.swapped_bytes == PAGE


@pytest.mark.parametrize("top", [16, 0x7F4000000010, (1 << 64) - 16, 0x7F0010000010])
def test_a_thread_arena_whose_top_leads_nowhere(top: int) -> None:
    malloc = furnished("2.36").write()
    malloc.image.words(malloc.arenas[2].address + malloc.release.state["top"], top)
    reading = read_damaged(malloc)
    assert [bool(item.problems) for item in reading.arenas] == [False, False, True]
    assert reading.arenas[2].pieces == ()


@pytest.mark.parametrize("top", [16, 8, 0x7F4000000010, (1 << 64) - 16, MAPPINGS + 0x30])
def test_a_main_arena_whose_top_leads_nowhere(top: int) -> None:
    malloc = furnished("2.36").write()
    with Running(malloc, lambda memory, walks: None) as memory:
        subject = malloc.subject(memory)
        memory.poke(malloc.main_arena + malloc.release.state["top"], top)
        reading = read_heap(subject, version="2.36", expired=lambda: False)
    assert [bool(item.problems) for item in reading.arenas] == [True, False, False]


@pytest.mark.parametrize(
    ("word", "value"),
    [
        (0, 0x1230),
        (1, 0x7F0000000000),
        (1, 0x1000),
        (2, 0),
        (2, 1 << 40),
        (3, 0x1000),
        (3, 1 << 40),
    ],
)
def test_a_heap_header_that_does_not_look_like_one(word: int, value: int) -> None:
    """In the newer of an arena's two heaps: arena, previous, size, mprotect_size."""
    malloc = furnished("2.36").write()
    large = malloc.arenas[1]
    malloc.image.words(large.heaps[1] + 8 * word, value)
    reading = read_damaged(malloc)
    assert [bool(item.problems) for item in reading.arenas] == [False, True, False]


def test_heaps_in_a_circle() -> None:
    malloc = furnished("2.36").write()
    large = malloc.arenas[1]
    malloc.image.words(large.heaps[1] + 8, large.heaps[1])
    reading = read_damaged(malloc)
    assert reading.arenas[1].problems


def test_a_fastbin_that_goes_in_a_circle() -> None:
    malloc = furnished("2.36").write()
    chunk = malloc.main.row.addresses("fastbin")[0]
    malloc.image.words(chunk + 16, chunk ^ (chunk + 16 >> 12))
    reading = read_damaged(malloc)
    assert "a fastbin does not end as it should" in reading.arenas[0].problems


def test_a_tcache_list_that_is_longer_than_its_counter() -> None:
    malloc = furnished("2.36").write()
    owner = malloc.threads[0]
    last = owner.bins[2][-1]
    malloc.image.words(last, (last + 0x10) ^ (last >> 12))
    reading = read_damaged(malloc)
    assert reading.parked.broken == ("tcache bin 2 of thread 100",)


def test_a_ring_that_stops_closing_is_an_error() -> None:
    malloc = furnished("2.36").write()
    state = malloc.release.state
    with Running(malloc, lambda memory, walks: None) as memory:
        subject = malloc.subject(memory)
        memory.poke(malloc.arenas[1].address + state["next"], malloc.arenas[1].address)
        with pytest.raises(InvalidHeap, match="does not close"):
            read_heap(subject, version="2.36", expired=lambda: False)


# ---- what the lists tell of their own making ----


@pytest.mark.parametrize("version", ["2.31", "2.36"])
def test_safe_linking_is_read_from_tcaches_or_from_fastbins_alone(version: str) -> None:
    for kinds in (("tcache",), ("fastbin",), ()):
        malloc = Malloc(version)
        owner = malloc.thread()
        owner.make_tcache(malloc.release.tcache_chunk)
        if "tcache" in kinds:
            owner.park(malloc.main.row, 0x40)
        if "fastbin" in kinds:
            malloc.main.row.fast(0x40)
            malloc.main.row.fast(0x40)
        malloc.main.end_at_page()
        malloc.write()
        for default in (False, True):
            with malloc.memory() as memory:
                subject = malloc.subject(memory, safe_linking_default=default)
                reading = read_heap(subject, version=version, expired=lambda: False)
            assert reading.safe_linking == (malloc.release.mangled if kinds else default)
            assert reading.arenas[0].problems == ()


def test_the_version_that_the_library_names_chooses_among_alike_layouts() -> None:
    malloc = Malloc("2.44")
    malloc.main.row.live(0x100)
    malloc.main.end_at_page()
    malloc.write()
    for version, chosen in (("2.43", "2.43"), ("2.44", "2.44"), (None, "2.43"), ("9.9", "2.43")):
        with malloc.memory() as memory:
            reading = read_heap(malloc.subject(memory), version=version, expired=lambda: False)
        assert chosen in reading.layout.versions


def test_rows_that_fit_alike_are_told_unless_the_version_decides() -> None:
    """2.43 and 2.44 differ in a member of mp_ that nothing here depends on."""
    malloc = furnished("2.44")
    for version, others in ((None, ["D/heap48/T6/P6"]), ("2.44", []), ("2.43", [])):
        reading = read(malloc, version=version)
        assert [row.name for row in reading.also_fit] == others
    assert read(furnished("2.36"), version=None).also_fit == ()
