"""Headers kept from one reading: what they answer, and what they leave to the memory itself."""

from __future__ import annotations

import os
import random
import struct

import pytest
from unit.heaps import PAGE, SWAPPED, Image, Row, expected, figures, linked

from allocscope.files.spans import SpanMemory
from allocscope.native import ffi, lib
from allocscope.proc.memory import ProcessMemory

BASE = 0x7F1300000000


def row_with_lists(length: int, seed: int) -> tuple[Row, list[int]]:
    """A row of small chunks, ``length`` of them in a fastbin, and their order in it; the
    first one's link lies on the page behind its size."""
    choose = random.Random(seed)
    row = Row(BASE)
    row.live(PAGE - 16)
    row.fast(0x30)
    while len(row.addresses("fastbin")) < length:
        row.add(choose.choice(["live", "fastbin"]), choose.choice([0x20, 0x30, 0x50, 0x70, 0x1230]))
    row.top(0x1010)
    order = row.addresses("fastbin")
    choose.shuffle(order)
    return row, order


def running(image: Image) -> tuple[dict[int, bytearray], SpanMemory]:
    """Memory whose bytes a test can change, and that sees the changes."""
    pages = {start: bytearray(data) for start, data in image.spans().items()}
    memory = SpanMemory(pages, image.runs())
    memory.maps_pages = True  # as Image.memory does
    return pages, memory


def wipe(pages: dict[int, bytearray]) -> None:
    for page in pages.values():
        page[:] = bytes(PAGE)


@pytest.mark.parametrize("mangled", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_lists_and_walk_need_nothing_but_the_headers(mangled: bool, seed: int) -> None:
    row, order = row_with_lists(400, seed)
    image = row.image()
    head = linked(image, order, mangled=mangled, link_offset=16)
    pages, memory = running(image)
    region = row.region()

    def follow() -> tuple[list[int], bool]:
        [(found, whole)] = memory.chase([head], link_offset=16, mangled=mangled, limit=1000)
        return list(found), whole

    with memory:
        with memory.keeping([(region.first, region.limit)], region.top):
            wipe(pages)
            assert follow() == (order, True)
            assert figures(memory.walk(region)) == expected(row.chunks, image, region)
            assert memory.read(BASE + 8, 8) == bytes(8)
        assert follow() != (order, True)
        assert memory.walk(region).damage_count > 0


def test_several_rows_and_what_lies_in_none() -> None:
    """A list through two kept rows and one that is not."""
    rows = [Row(BASE), Row(BASE + 0x100000), Row(BASE + 0x200000)]
    image = Image()
    for row in rows:
        for _ in range(50):
            row.fast(0x30)
        row.top(0x1000)
        row.write(image)
    order = [
        a for chunks in zip(*(r.addresses("fastbin") for r in rows), strict=True) for a in chunks
    ]
    head = linked(image, order, mangled=True, link_offset=16)
    pages, memory = running(image)
    with (
        memory,
        memory.keeping([(row.first, row.end) for row in rows[:2]], rows[1].addresses("top")[0]),
    ):
        for start, page in pages.items():
            if start < rows[2].first:
                page[:] = bytes(PAGE)
        [(found, whole)] = memory.chase([head], link_offset=16, mangled=True, limit=1000)
        assert (list(found), whole) == (order, True)
        for row in rows:
            region = row.region()
            assert figures(memory.walk(region)) == expected(row.chunks, image, region)


@pytest.mark.parametrize("kept", [False, True])
def test_links_on_a_page_that_is_not_there_are_not_made_up(kept: bool) -> None:
    row = Row(BASE)
    row.live(PAGE - 16)
    chunk = row.fast(0x40)
    row.live(2 * PAGE)
    row.top(0x1000)
    image = row.image()
    image.words(chunk.address + 16, 0)
    image.state(BASE + PAGE, BASE + 2 * PAGE, SWAPPED)
    with image.memory() as memory:
        with memory.keeping([(row.first, row.end)] if kept else [], row.addresses("top")[0]):
            [(found, whole)] = memory.chase([chunk.address], link_offset=16, mangled=False, limit=9)
            tally = memory.walk(row.region())
        assert (list(found), whole) == ([], False)
        assert tally == memory.walk(row.region())


def test_an_address_in_a_chunk_but_not_in_its_header_is_read() -> None:
    row = Row(BASE)
    row.live(0x100)
    row.top(0x1000)
    image = row.image()
    image.words(BASE + 0x80, BASE + 0x90, 0, 0)
    pages, memory = running(image)
    with memory, memory.keeping([(BASE, row.end)], BASE + 0x100):
        pages[BASE][0x90:0x98] = (BASE + 0xA0).to_bytes(8, "little")
        [(found, whole)] = memory.chase([BASE + 0x80], link_offset=0, mangled=False, limit=9)
    assert (list(found), whole) == ([BASE + 0x80, BASE + 0x90, BASE + 0xA0], True)


def test_more_chunks_than_are_kept() -> None:
    """The last ones are read as ever; nobody notices."""
    count = int(lib.AS_HEADERS_MAX) + 1000
    data = ffi.new("char[]", struct.pack("<4Q", 0, 0x21, 0, 0) * count + bytes(16))
    first = -(-int(ffi.cast("uint64_t", data)) // 16) * 16
    row = Row(first)
    row.live(32 * (count - 1))
    region = row.region(map_end=row.end)
    with ProcessMemory(os.getpid()) as memory:
        found = memory.walk(region)
        with memory.keeping([(region.first, region.limit)], 0):
            assert memory.walk(region) == found
    assert found.live_count == count - 1
    del data


def test_a_hundred_thousand_rows_are_kept_as_far_as_there_is_room() -> None:
    row = Row(BASE)
    row.live(0x100)
    row.top(0x1000)
    with row.image().memory() as memory, memory.keeping([(BASE, row.end)] * 100_000, row.end):
        assert memory.walk(row.region()).live_count == 1


@pytest.mark.parametrize(
    ("first", "limit"),
    [(BASE + 8, BASE + PAGE), (BASE, BASE), (BASE + PAGE, BASE), (0, (1 << 64) - 1), (1 << 63, 0)],
)
def test_rows_that_are_none(first: int, limit: int) -> None:
    row = Row(BASE)
    row.live(0x100)
    row.top(0x1000)
    with row.image().memory() as memory, memory.keeping([(first, limit)], 0):
        assert memory.walk(row.region()).live_count == 1
