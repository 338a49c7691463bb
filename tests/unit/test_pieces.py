"""The main arena in pieces: odd beginnings, foreign memory in the break, mappings instead of it;
thread heaps with more than they use."""

from __future__ import annotations

import pytest
from unit.heaps import PAGE, Row
from unit.mallocs import BRK, MAPPINGS, Malloc
from unit.test_reading import assert_sound, figures_of, read

from allocscope.glibc.reading import read_heap

NONCONTIGUOUS = 2


def main_of(malloc: Malloc) -> Row:
    """Some chunks of each kind in main's last row."""
    row = malloc.main.row
    row.live(0x300)
    row.free(0x1200)
    row.live(0x40)
    row.fast(0x20)
    row.live(0x20)
    return row


@pytest.mark.parametrize("odd", [0, 0x10, 0x2B, 0x2B0, 0xFF8])
def test_sbrk_base_may_be_anywhere(odd: int) -> None:
    malloc = Malloc("2.31", sbrk_base=BRK + odd)
    main_of(malloc)
    malloc.main.end_at_page(4)
    reading = read(malloc)
    assert_sound(malloc, reading)
    [piece] = reading.arenas[0].pieces
    assert piece.alignment_bytes == -odd % 16
    assert (piece.start, piece.end) == (BRK + odd, malloc.main.row.end)


def test_a_main_arena_without_memory() -> None:
    malloc = Malloc()
    malloc.main.rows = []
    malloc.par["sbrk_base"] = 0
    reading = read(malloc)
    assert reading.arenas[0].pieces == ()
    assert reading.arenas[0].problems == ()
    assert figures_of(reading, 0).system_bytes == 0


# ---- foreign memory ----


def ended_by_foreign(malloc: Malloc, size: int, old_top: int = 0x200) -> Row:
    row = main_of(malloc)
    border = -(-(row.end + old_top) // PAGE) * PAGE
    if old_top == 48:
        row.live_up_to(border - 48)
        row.fenceposts(3)
    else:
        row.live_up_to(border - old_top)
        if old_top > 32:
            row.free(old_top - 32)
        row.fenceposts()
    return malloc.foreign_brk(size)


@pytest.mark.parametrize("size", [0x10, 0x1000, 0x1230, 0x4000, 0x21008])
@pytest.mark.parametrize("old_top", [32, 48, 0x200])
def test_foreign_memory_between_two_rows(old_top: int, size: int) -> None:
    malloc = Malloc()
    following = ended_by_foreign(malloc, size, old_top)
    main_of(malloc)
    malloc.main.end_at_page(3)
    reading = read(malloc)
    assert_sound(malloc, reading)
    first, second = reading.arenas[0].pieces
    assert (first.foreign_bytes, second.foreign_bytes) == (0, following.first - first.end)
    assert second.start == following.first
    pages = [piece.tally.pages.resident_bytes for piece in (first, second)]
    assert sum(pages) <= -(-second.end // PAGE) * PAGE - first.start // PAGE * PAGE
    assert pages[0] == -(-first.end // PAGE) * PAGE - first.start // PAGE * PAGE
    assert [piece.holds_top for piece in (first, second)] == [False, True]


def test_a_free_chunk_may_begin_behind_foreign_memory() -> None:
    malloc = Malloc()
    ended_by_foreign(malloc, 0x2000)
    malloc.main.row.free(0x2300)
    malloc.main.row.live(0x40)
    malloc.main.end_at_page()
    assert_sound(malloc, read(malloc))


def test_foreign_memory_twice_and_looking_like_chunks() -> None:
    malloc = Malloc()
    ended_by_foreign(malloc, 0x1000)
    ended_by_foreign(malloc, 0x3000)
    main_of(malloc)
    malloc.main.end_at_page()
    lure = malloc.main.rows[1].end + 0x100
    malloc.image.words(lure, 0, 0x20 | 1, 0, 0, 0, 0x30 | 1, 0, 0, 0, 0, 0, 0x18)
    reading = read(malloc)
    assert_sound(malloc, reading)
    assert len(reading.arenas[0].pieces) == 3


@pytest.mark.parametrize("fencepost_count", [2, 3])
def test_a_row_of_live_chunks_between_foreign_memory(fencepost_count: int) -> None:
    """No list names a chunk of it; that it ends in fenceposts at the end of a page must do."""
    malloc = Malloc()
    ended_by_foreign(malloc, 0x1000)
    for size in (0x40, 0x230, 0x40):
        malloc.main.row.live(size)
    malloc.main.row.live_up_to(malloc.main.row.first // PAGE * PAGE + PAGE - 16 * fencepost_count)
    malloc.main.row.fenceposts(fencepost_count)
    malloc.foreign_brk(0x2000)
    main_of(malloc)
    malloc.main.end_at_page()
    reading = read(malloc)
    assert_sound(malloc, reading)
    assert len(reading.arenas[0].pieces) == 3


def test_foreign_memory_at_the_end_keeps_top_from_going_back() -> None:
    def trimmable(**changes: int) -> int:
        malloc = Malloc()
        main_of(malloc)
        malloc.main.end_at_page(8)
        malloc.write()
        with malloc.memory() as memory:
            subject = malloc.subject(memory, **changes)
            reading = read_heap(subject, version="2.36", expired=lambda: False)
        return figures_of(reading, 0).trimmable_bytes

    assert trimmable() == 8 * PAGE
    assert trimmable(brk_end=BRK + 0x100000) == 0


def test_top_goes_back_in_huge_pages_where_glibc_asks_for_them() -> None:
    for thp_pagesize, expected in ((0, 0x6FF000), (2 << 20, 0x600000)):
        malloc = Malloc()
        malloc.par["thp_pagesize"] = thp_pagesize
        main_of(malloc)
        malloc.main.end_at_page(0x6FF)
        assert figures_of(read(malloc), 0).trimmable_bytes == expected


# ---- memory from mmap because sbrk failed ----


def mapped_row(malloc: Malloc, start: int) -> Row:
    row = Row(start)
    malloc.main_mappings.append(row)
    return row


def test_rows_in_mappings_of_their_own() -> None:
    malloc = Malloc()
    row = main_of(malloc)
    row.live_up_to(-(-row.end // PAGE) * PAGE + PAGE - 0x120)
    row.free(0x100)
    row.fenceposts()
    malloc.main.flags = NONCONTIGUOUS
    second = mapped_row(malloc, MAPPINGS)
    second.live(0x5000)
    second.free(0x800)
    second.live_up_to(MAPPINGS + 0x100000 - 32)
    second.fenceposts()
    third = mapped_row(malloc, MAPPINGS + 0x800000)
    third.live(0x60)
    third.top(0x100000 - 0x60)
    reading = read(malloc)
    [item] = reading.arenas
    assert item.problems == ()
    found = figures_of(reading, 0)
    chunks = [c for r in (row, second, third) for c in r.chunks]
    for kind in ("live", "bin", "top", "fencepost"):
        total = sum(c.size for c in chunks if c.kind == kind)
        where = found.overhead if kind == "fencepost" else found
        assert getattr(where, f"{kind}_bytes") == total
    assert found.residue_bytes == 0
    assert len(item.pieces) == 3
    assert found.trimmable_bytes == 0  # top is not at the break


def test_a_main_arena_that_never_had_a_break() -> None:
    malloc = Malloc()
    malloc.main.rows = []
    malloc.par["sbrk_base"] = 0
    malloc.main.flags = NONCONTIGUOUS
    row = mapped_row(malloc, MAPPINGS)
    row.live(0x3000)
    row.free(0x3000)
    row.live(0x40)
    row.top(0x100000 - 0x6040)
    reading = read(malloc)
    [item] = reading.arenas
    assert item.problems == ()
    found = figures_of(reading, 0)
    assert (found.live_bytes, found.bin_bytes, found.residue_bytes) == (0x3040, 0x3000, 0)


def test_a_top_header_that_is_being_rewritten_does_not_move_the_end() -> None:
    """In a contiguous arena top ends at sbrk_base + system_mem."""
    malloc = Malloc()
    main_of(malloc)
    malloc.main.end_at_page(8)
    malloc.write()
    top = malloc.main.row.chunks[-1]
    for word in (1, 0x21, (1 << 64) - 1):
        malloc.image.words(top.address + 8, word)
        with malloc.memory() as memory:
            subject = malloc.subject(memory)
            reading = read_heap(subject, version="2.36", expired=lambda: False)
        [item] = reading.arenas
        assert item.problems == ("the chain of chunks is interrupted",)
        assert figures_of(reading, 0).top_bytes == top.size
        assert figures_of(reading, 0).residue_bytes == 0


# ---- thread arenas ----


@pytest.mark.parametrize("old_top", [32, 48, 0x90])
@pytest.mark.parametrize("version", ["2.31", "2.36", "2.44"])
def test_heaps_that_end_in_each_way(version: str, old_top: int) -> None:
    malloc = Malloc(version)
    malloc.main.row.live(0x40)
    malloc.main.end_at_page()
    arena = malloc.arena()
    for _ in range(3):
        arena.row.live(0x1000)
        arena.row.live_up_to(arena.heaps[-1] + 0x30000 - old_top)
        if old_top > 48:
            arena.row.free(old_top - 32)
        arena.row.heap_end(old_top if old_top <= 48 else None)
        malloc.heap(arena)
    arena.row.live(0x40)
    arena.end_at_page()
    arena.further_rw_bytes = 0x10000
    reading = read(malloc)
    assert_sound(malloc, reading)
    item = reading.arenas[1]
    assert [heap.start for heap in item.heaps] == arena.heaps
    assert [piece.holds_top for piece in item.pieces] == [False] * 3 + [True]
    assert all(piece.reserved_bytes == 64 << 20 for piece in item.pieces)
    assert all(p.mprotect_bytes - (p.end - p.start) == 0x10000 for p in item.pieces)
    assert figures_of(reading, 1).fastbin_bytes == 0


def test_every_page_counts_for_one_row_only() -> None:
    malloc = Malloc()
    for _ in range(3):
        ended_by_foreign(malloc, 3 * PAGE)
    main_of(malloc)
    malloc.main.end_at_page(2)
    reading = read(malloc)
    pieces = reading.arenas[0].pieces
    own = [(piece.end - piece.start) for piece in pieces]
    assert len(own) == 4
    assert [piece.tally.pages.resident_bytes for piece in pieces] == own
    assert figures_of(reading, 0).resident_bytes == malloc.main.row.end - BRK - 9 * PAGE
