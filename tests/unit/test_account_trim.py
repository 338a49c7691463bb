"""From a reading to the forecast of a trim: sums that close, calls, time; and what went."""

from __future__ import annotations

import dataclasses

import pytest
from trims import PACE
from unit.heaps import PAGE
from unit.mallocs import furnished
from unit.test_reading import read

from allocscope.account import arenas, controls
from allocscope.account import trim as account
from allocscope.glibc.reading import HeapReading
from allocscope.model.trim import Stays


@pytest.fixture(scope="module")
def reading() -> HeapReading:
    return read(furnished("2.36"))


def staying(stays: Stays) -> int:
    return sum(getattr(stays, name) for name in Stays.__slots__)


def test_what_goes_and_what_stays_is_what_is_free_and_resident(reading: HeapReading) -> None:
    made = account.forecast(reading, 0, PACE)
    for item, row in zip(reading.arenas, made.per_arena, strict=True):
        figures = arenas.arena(item, (), "validated").figures
        assert row.bytes == figures.trimmable_bytes
        assert row.bytes + staying(row.stays) == figures.free_resident_bytes
        assert (row.index, row.is_main) == (item.index, item.index == 0)
    assert made.bytes == sum(row.bytes for row in made.per_arena) > 0
    assert staying(made.stays) == sum(staying(row.stays) for row in made.per_arena) > 0


def test_calls_chunks_and_time(reading: HeapReading) -> None:
    made = account.forecast(reading, 4096, PACE)
    tallies = [piece.tally for item in reading.arenas for piece in item.pieces]
    assert made.pad_bytes == 4096
    assert made.madvise_count + made.brk_count == sum(t.trim_range_count for t in tallies)
    assert made.brk_count == sum(t.trim_break_bytes > 0 for t in tallies)
    assert made.visit_count == sum(t.bin_count for t in tallies) > 0
    assert made.merge_count == sum(t.fastbin_count for t in tallies) > 0
    assert made.page_count * PAGE == made.bytes
    assert made.estimated_ns == (
        (made.madvise_count + made.brk_count) * 1500
        + made.page_count * 240
        + made.visit_count * 15
        + made.merge_count * 70
    )
    assert made.estimated_most_ns == (
        ((made.madvise_count + made.brk_count) * 1500 + made.page_count * 240) * 3
        + made.visit_count * 450
        + made.merge_count * 150
    )
    assert made.estimated_refault_ns == made.page_count * 1800


def test_an_arenas_pages_are_counted_once(reading: HeapReading) -> None:
    item = reading.arenas[0]
    piece = item.pieces[0]
    beside = dataclasses.replace(piece, start=piece.end - 16, end=piece.end + 100)
    found = account.extents(dataclasses.replace(item, pieces=(beside, piece)))
    end = max(beside.end, beside.start + beside.mprotect_bytes)
    assert found == [(piece.start // PAGE * PAGE, -(-end // PAGE) * PAGE)]
    far = dataclasses.replace(piece, start=end + (1 << 30), end=end + (1 << 30) + PAGE)
    assert len(account.extents(dataclasses.replace(item, pieces=(piece, far)))) == 2


def test_what_went_stands_beside_the_forecast(reading: HeapReading) -> None:
    rows = account.forecast(reading, 0, PACE).per_arena
    before = [row.bytes + 3 * PAGE for row in rows]
    after = [3 * PAGE] * (len(rows) - 1) + [PAGE]
    found = account.released(rows, before, after)
    assert [row.error_bytes for row in found] == [0] * (len(rows) - 1) + [2 * PAGE]
    assert [row.released_bytes for row in found] == [
        had - has for had, has in zip(before, after, strict=True)
    ]


def test_residency_is_asked_for_each_extent(reading: HeapReading) -> None:
    asked = account.resident(reading, lambda start, end: end - start)
    assert asked == [
        sum(end - start for start, end in account.extents(item)) for item in reading.arenas
    ]


def test_controls_of_other_allocators_are_known_or_not_made_up() -> None:
    assert "purge" in (controls.instead_of_trim("jemalloc") or "")
    assert "malloc_trim" in (controls.instead_of_trim("musl") or "")
    assert controls.instead_of_trim("rpmalloc") is None
