"""Sources of memory: spans made up here, and pages of this very process."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest
from unit.heaps import HUGE, PAGE, PRESENT, SWAPPED, ZERO, Image

from allocscope.errors import MemoryGap
from allocscope.files.spans import SpanMemory
from allocscope.native import ffi, lib
from allocscope.native.memory import NativeMemory
from allocscope.proc.memory import ProcessMemory

AT = 0x7F9A00000000
GUARD = 16


# ---- spans ----


def test_reading_goes_across_spans_that_follow_on_each_other() -> None:
    with SpanMemory({AT: b"abc", AT + 3: b"de", AT + 6: b"gh"}) as memory:
        assert memory.read(AT, 5) == b"abcde"
        assert memory.read(AT + 2, 2) == b"cd"
        assert memory.read(AT + 7, 1) == b"h"
        for address, size in ((AT, 6), (AT + 5, 1), (AT + 7, 2), (AT - 1, 2)):
            with pytest.raises(MemoryGap):
                memory.read(address, size)
        assert memory.runs(AT - PAGE, AT + PAGE) == [(AT, AT + PAGE)]
        assert memory.residency(AT, AT + 8).resident_bytes == PAGE


def test_pages_of_spans_that_share_a_page_count_once() -> None:
    with SpanMemory({AT + 100: b"x" * 50, AT + 300: b"y" * PAGE}) as memory:
        assert memory.runs(AT, AT + 4 * PAGE) == [(AT, AT + 2 * PAGE)]
        assert memory.residency(AT, AT + 4 * PAGE).resident_bytes == 2 * PAGE


def states() -> Image:
    image = Image()
    image.write(AT, bytes(range(256)) * 16 * 8)
    for page, flags in ((1, 0), (2, SWAPPED), (3, GUARD), (4, PRESENT | ZERO), (5, PRESENT | HUGE)):
        image.state(AT + page * PAGE, AT + (page + 1) * PAGE, flags)
    return image


def test_page_states() -> None:
    with states().memory() as memory:
        assert memory.runs(AT, AT + 9 * PAGE) == [(AT, AT + PAGE), (AT + 4 * PAGE, AT + 8 * PAGE)]
        found = memory.residency(AT + 1, AT + 9 * PAGE)
        assert found.resident_bytes == 4 * PAGE
        assert found.swapped_bytes == found.zero_bytes == found.huge_bytes == PAGE
        assert memory.residency(AT + 5 * PAGE + 5, AT + 5 * PAGE + 6).huge_bytes == PAGE


def test_pages_that_are_not_there_are_left_alone_even_where_bytes_are_known() -> None:
    with states().memory() as memory:
        for page in (1, 2, 3, 8):
            with pytest.raises(MemoryGap):
                memory.read(AT + page * PAGE, 1)
            with pytest.raises(MemoryGap):
                memory.read(AT + page * PAGE - 1, 2)
        assert memory.read(AT + 4 * PAGE, 3 * PAGE) == bytes(range(256)) * 48


def test_a_read_that_begins_on_a_page_that_is_not_there() -> None:
    image = Image()
    image.touch(AT, AT + 2 * PAGE)
    image.state(AT, AT + PAGE, 0)
    with image.memory() as memory:
        with pytest.raises(MemoryGap):
            memory.read(AT + PAGE - 4, 8)
        for count in (1, 20):
            assert memory.read_each([AT + PAGE - 4] * count, 8) == [None] * count


@pytest.mark.parametrize("count", [3, 9, 2000])
def test_many_reads_at_once(count: int) -> None:
    """Few are read one by one, more in batches."""
    places = [AT, AT + PAGE - 4, AT + PAGE, AT + 2 * PAGE + 8, AT + 4 * PAGE - 8, AT + 4 * PAGE]
    wanted = [places[i % len(places)] for i in range(count)]
    expected = [bytes(range(8)), None, None, None, None, bytes(range(8))]
    with states().memory() as memory:
        answers = [expected[i % len(places)] for i in range(count)]
        assert memory.read_each(wanted, 8) == answers


def test_more_runs_than_fit_in_one_answer() -> None:
    image = Image()
    for page in range(0, 20_000, 2):
        image.touch(AT + page * PAGE, AT + (page + 1) * PAGE)
    with image.memory() as memory:
        runs = memory.runs(AT, AT + 20_000 * PAGE)
        assert runs == [(AT + p * PAGE, AT + (p + 1) * PAGE) for p in range(0, 20_000, 2)]
        assert memory.residency(AT, AT + 20_000 * PAGE).resident_bytes == 10_000 * PAGE


@pytest.mark.parametrize("cap", [1, 2, 3, 64])
def test_page_states_in_parts_are_the_whole(cap: int) -> None:
    out, count, resume = ffi.new("as_run[]", cap), ffi.new("size_t *"), ffi.new("uint64_t *")
    parts = []
    start, end = AT, AT + 9 * PAGE
    with states().memory() as memory:
        while start < end:
            assert lib.as_runs(memory._source, start, end, out, cap, count, resume) == 0
            parts += [(out[i].start, out[i].end, out[i].flags) for i in range(count[0])]
            assert resume[0] > start
            start = resume[0]
    states_told = {p: f for low, high, f in parts for p in range(low // PAGE, high // PAGE)}
    assert states_told == {n: flags for n, flags in states().states.items() if flags}


@pytest.mark.parametrize("few", [True, False])
def test_reading_nothing(few: bool) -> None:
    count = 1 if few else 20
    with states().memory() as memory:
        assert memory.read(AT, 0) == b""
        assert memory.read_each([AT] * count, 0) == [b""] * count
        assert memory.runs(AT, AT) == []
        assert memory.residency(AT, AT).resident_bytes == 0


# ---- the ends of the address space ----


@pytest.fixture(params=["spans", "process"])
def memory(request: pytest.FixtureRequest) -> Iterator[NativeMemory]:
    source = states().memory() if request.param == "spans" else ProcessMemory(os.getpid())
    with source:
        yield source


STRANGE = [-8, -(1 << 70), 0, 8, (1 << 47) - 4, 1 << 47, 1 << 63, (1 << 64) - 8, 1 << 64, 1 << 70]


@pytest.mark.parametrize("address", STRANGE)
def test_strange_addresses_are_gaps(memory: NativeMemory, address: int) -> None:
    for size in (8, 4096):
        with pytest.raises(MemoryGap):
            memory.read(address, size)
        assert memory.read_each([address], size) == [None]
        assert memory.read_each([address] * 20, size) == [None] * 20
    if 0 <= address < 1 << 64:
        [(found, whole)] = memory.chase([address], link_offset=0, mangled=False, limit=9)
        assert (list(found), whole) == ([], address == 0)


def test_a_strange_address_spoils_no_other_read(memory: NativeMemory) -> None:
    own = ffi.new("uint64_t[4]", [1, 2, 3, 4])
    place = AT if isinstance(memory, SpanMemory) else int(ffi.cast("uint64_t", own))
    for fill in (1, 20):
        wanted = [*STRANGE, place] * fill
        assert [data is not None for data in memory.read_each(wanted, 8)] == [
            *([False] * len(STRANGE) + [True]) * fill
        ]


def test_ranges_beyond_user_space_have_no_pages(memory: NativeMemory) -> None:
    for start, end in (
        ((1 << 47) - PAGE, (1 << 47) + PAGE),
        (1 << 63, (1 << 63) + PAGE),
        ((1 << 64) - 2 * PAGE, (1 << 64) - 1),
    ):
        assert memory.runs(start, end) == []
        assert memory.residency(start, end).resident_bytes == 0


# ---- pages of this process, in both ways that kernels tell about them ----


@pytest.fixture(params=["PAGEMAP_SCAN", "pagemap"])
def own(request: pytest.FixtureRequest) -> Iterator[ProcessMemory]:
    with ProcessMemory(os.getpid(), use_pagemap_scan=request.param == "PAGEMAP_SCAN") as memory:
        yield memory


def test_only_touched_pages_are_there_and_reading_touches_none(own: ProcessMemory) -> None:
    pages = 2000
    with mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        area.madvise(mmap.MADV_NOHUGEPAGE)
        buffer = ffi.from_buffer(area)
        start = int(ffi.cast("uint64_t", ffi.cast("void *", buffer)))
        for page in range(0, pages, 3):
            area[page * PAGE : page * PAGE + 8] = struct.pack("<Q", page)
        expected = [(start + p * PAGE, start + (p + 1) * PAGE) for p in range(0, pages, 3)]
        for _ in range(2):
            assert own.runs(start, start + pages * PAGE) == expected
            assert own.residency(start, start + pages * PAGE).resident_bytes == 667 * PAGE
            words = own.read_each([start + page * PAGE for page in range(pages)], 8)
            assert words == [None if page % 3 else struct.pack("<Q", page) for page in range(pages)]
            across = [start + page * PAGE - 4 for page in range(3, pages, 3)]
            for few in (across[:3], across):  # from a page that is not there to one that is
                assert own.read_each(few, 8) == [None] * len(few)
            assert own.read(start + 3 * PAGE, 8) == struct.pack("<Q", 3)
            with pytest.raises(MemoryGap):
                own.read(start + PAGE, 8)
        del buffer
