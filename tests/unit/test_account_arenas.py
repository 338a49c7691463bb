"""From a reading to the arenas of the contract: sums, and what smaps adds."""

from __future__ import annotations

import dataclasses

import pytest
from unit.heaps import PAGE
from unit.mallocs import Malloc, furnished
from unit.test_reading import read

from allocscope.account import arenas as account
from allocscope.glibc.reading import HeapReading
from allocscope.model.heap import Overhead
from allocscope.model.process import Mapping, SmapsEntry

MIB = 1 << 20


@pytest.fixture(scope="module")
def malloc() -> Malloc:
    return furnished("2.36")


@pytest.fixture(scope="module")
def reading(malloc: Malloc) -> HeapReading:
    return read(malloc)


def smaps(start: int, end: int, *, rss: int = 0, dirty: int = 0, lazyfree: int = 0) -> SmapsEntry:
    mapping = Mapping(start, end, "rw-p", 0, "00:00", 0, "")
    return SmapsEntry(mapping, rss, dirty, 0, lazyfree, 0, rss, 0, 0)


# ---- sums ----


def test_totals_are_the_sums_of_the_arenas(reading: HeapReading) -> None:
    figures = [account.arena(item, (), "validated").figures for item in reading.arenas]
    total = account.totals(figures)
    for name in ("system_bytes", "live_bytes", "bin_count", "trimmable_bytes", "pinned_bytes"):
        assert getattr(total, name) == sum(getattr(f, name) for f in figures) > 0
    for name in Overhead.__slots__:
        assert getattr(total.overhead, name) == sum(getattr(f.overhead, name) for f in figures)
    assert total.overhead_bytes == total.overhead.total_bytes > 0
    assert total.residue_bytes == 0
    assert (total.private_dirty_bytes, total.lazyfree_bytes) == (0, 0)
    unknown = dataclasses.replace(figures[1], private_dirty_bytes=None)
    assert account.totals([figures[0], unknown]).private_dirty_bytes is None
    assert account.totals([]).system_bytes == 0


def test_what_the_walk_did_not_account_for_is_residue(reading: HeapReading) -> None:
    item = reading.arenas[1]
    state = dataclasses.replace(item.state, system_bytes=item.state.system_bytes + 4096)
    found = account.arena(dataclasses.replace(item, state=state), None, "validated")
    assert found.figures.residue_bytes == 4096


def test_heaps_add_up_to_their_arena(malloc: Malloc, reading: HeapReading) -> None:
    for index, arena in enumerate(malloc.arenas):
        found = account.arena(reading.arenas[index], None, "validated")
        figures = found.figures
        assert (found.index, found.address, found.is_main) == (index, arena.address, index == 0)
        assert [heap.holds_top for heap in found.heaps][-1]
        for name in ("resident_bytes", "live_bytes", "live_count", "free_resident_bytes"):
            assert sum(getattr(heap, name) for heap in found.heaps) == getattr(figures, name)
        free = figures.tcache_bytes + figures.fastbin_bytes + figures.bin_bytes + figures.top_bytes
        assert sum(heap.free_bytes for heap in found.heaps) == free
        assert free == sum(arena.bytes(kind) for kind in ("tcache", "fastbin", "bin", "top"))
    assert len(account.arena(reading.arenas[1], None, "validated").heaps) == 2


def test_size_classes_of_all_arenas(malloc: Malloc, reading: HeapReading) -> None:
    rows = {row.min_bytes: row for row in account.size_classes(reading)}
    chunks = [c for arena in malloc.arenas for row in arena.rows for c in row.chunks]
    for kind, size in (("tcache", 0x40), ("fastbin", 0x20), ("bin", 0x90), ("live", 0x20)):
        count = sum(c.kind == kind and c.size == size for c in chunks)
        assert getattr(rows[size], f"{kind}_count") == count > 0
        assert getattr(rows[size], f"{kind}_bytes") == count * size
    assert sorted(rows) == list(rows)
    live = sum(c.size for c in chunks if c.kind == "live")
    assert sum(row.live_bytes for row in rows.values()) == live


def test_threads_and_mappings(malloc: Malloc, reading: HeapReading) -> None:
    caches = account.thread_caches(reading, {100: (5, 0x160)})
    assert [(c.tid, c.arena_index) for c in caches] == [(100, 0), (101, 2), (102, 1)]
    assert [(c.tcache_count, c.tcache_bytes) for c in caches] == [(5, 0x160), (0, 0), (0, 0)]
    assert [c.tcache_address for c in caches] == [*(t.tcache for t in malloc.threads[:2]), None]
    mapped = account.mmapped(reading, 12345)
    total = sum(end - start for start, end in malloc.mappings)
    assert (mapped.count, mapped.bytes) == (mapped.found_count, mapped.found_bytes) == (3, total)
    assert mapped.resident_bytes == 12345


def test_consistency(reading: HeapReading) -> None:
    item = reading.arenas[0]
    broken = dataclasses.replace(item, problems=("it changed while it was read",))
    assert account.arena(item, None, "validated").consistency == "validated"
    assert account.arena(broken, None, "validated").consistency == "partial"
    assert account.arena(broken, None, "frozen").consistency == "frozen"
    locked = dataclasses.replace(item, state=dataclasses.replace(item.state, lock_word=2))
    assert account.arena(locked, None, "validated").locked
    assert not account.arena(item, None, "validated").locked


# ---- smaps ----


def test_without_smaps_both_are_unknown(reading: HeapReading) -> None:
    assert account.dirty_and_lazyfree(reading.arenas[0], None) == (None, None)


def test_mappings_of_an_arena_alone(malloc: Malloc, reading: HeapReading) -> None:
    large = malloc.arenas[1]
    entries = [
        smaps(large.heaps[0], large.rows[0].end, rss=MIB, dirty=1000, lazyfree=10),
        smaps(large.heaps[1], large.rows[1].end, rss=MIB, dirty=500, lazyfree=5),
        smaps(large.rows[1].end, large.heaps[1] + (64 << 20), rss=7, dirty=7, lazyfree=7),
        smaps(0x1000, 0x2000, rss=7, dirty=7, lazyfree=7),
    ]
    assert account.dirty_and_lazyfree(reading.arenas[1], entries) == (1500, 15)


def test_what_a_heap_once_used_is_its_own(malloc: Malloc, reading: HeapReading) -> None:
    small = malloc.arenas[2]
    end = small.row.end + small.further_rw_bytes
    entries = [smaps(small.heaps[0], end, rss=MIB, dirty=900, lazyfree=9)]
    assert account.dirty_and_lazyfree(reading.arenas[2], entries) == (900, 9)


def test_a_break_that_begins_and_ends_within_a_page(reading: HeapReading, malloc: Malloc) -> None:
    [(start, end)] = malloc.brk_spans
    entries = [smaps(start, end, rss=MIB, dirty=800)]
    assert account.dirty_and_lazyfree(reading.arenas[0], entries) == (800, 0)


def test_a_mapping_shared_with_others(reading: HeapReading, malloc: Malloc) -> None:
    """Known only where all of it is dirty: then the arena's resident pages are."""
    [(start, end)] = malloc.brk_spans
    item = reading.arenas[0]
    resident = sum(p.tally.pages.resident_bytes for p in item.pieces)
    for low, high in ((start - PAGE, end), (start, end + PAGE)):
        wholly = [smaps(low, high, rss=MIB, dirty=MIB)]
        assert account.dirty_and_lazyfree(item, wholly) == (resident, 0)
        partly = [smaps(low, high, rss=MIB, dirty=MIB - PAGE, lazyfree=PAGE)]
        assert account.dirty_and_lazyfree(item, partly) == (None, None)


def test_foreign_memory_in_the_break() -> None:
    """Between the arena's rows it counts as the arena's, as in system_mem; behind them it does
    not."""
    malloc = Malloc()
    malloc.main.row.live_up_to(malloc.main.row.first + PAGE - 32)
    malloc.main.row.fenceposts()
    malloc.foreign_brk(8 * PAGE)
    malloc.main.row.live(0x100)
    malloc.main.end_at_page()
    item = read(malloc).arenas[0]
    assert len(item.pieces) == 2
    [(start, end)] = malloc.brk_spans
    assert account.dirty_and_lazyfree(item, [smaps(start, end, rss=5, dirty=3)]) == (3, 0)
    behind = [smaps(start, end + 4 * PAGE, rss=MIB, dirty=MIB - PAGE)]
    assert account.dirty_and_lazyfree(item, behind) == (None, 0)
