"""The chunk walk over made-up rows: every figure, exactly."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from unit.heaps import HUGE, PAGE, PRESENT, SWAPPED, ZERO, Image, Row, expected, figures

from allocscope.model import page_map
from allocscope.model.walk import STOP_LIMIT, Region, Tally
from allocscope.native import lib

BASE = 0x7F1200000000
BIN = 0x7F1100000070
"""Where the made-up bin's head is, outside of the row."""


def walk(image: Image, region: Region, *, held: bool = False) -> Tally:
    with image.memory() as memory:
        if not held:
            return memory.walk(region)
        with memory.keeping([(region.first, region.limit)], region.top):
            return memory.walk(region)


def check(row: Row, states: list[tuple[int, int, int]] | None = None, **changes: Any) -> Tally:
    """Walks the row, held and not, and compares every figure with the arithmetic. ``states``: page
    states ``(start, end, flags)``, offsets from BASE; the other pages are present."""
    row.link([chunk for chunk in row.chunks if chunk.kind == "bin"], BIN)
    image = row.image()
    for start, end, flags in states or ():
        image.state(BASE + start, BASE + end, flags)
    region = row.region(**changes)
    tally = walk(image, region)
    assert figures(tally) == expected(row.chunks, image, region)
    assert walk(image, region, held=True) == tally
    return tally


def test_one_of_each() -> None:
    row = Row(BASE + 0x10)
    row.tcache_struct(0x290)
    row.live(0x110)
    row.cached(0x40)
    row.fast(0x20)
    row.live(0x5000)
    row.free(0x3000)
    row.live(0x20)
    row.top(BASE + 0x21000 - row.end)
    tally = check(row, trim_unit=PAGE)
    assert (tally.live_count, tally.live_bytes) == (3, 0x110 + 0x5000 + 0x20)
    assert (tally.tcache_count, tally.tcache_bytes) == (1, 0x40)
    assert (tally.fastbin_count, tally.fastbin_bytes) == (1, 0x20)
    assert (tally.bin_count, tally.bin_bytes) == (1, 0x3000)
    assert tally.tcache_struct_bytes == 0x290
    assert tally.top_bytes == 0x21000 - 0x8430
    # free: [0x5410, 0x8410) gives back pages 6 and 7; top: all but 33 bytes to a page
    assert tally.trimmable_bytes == 2 * PAGE + 0x18000
    assert tally.trim_range_count == 2
    assert tally.pinned_bytes == 0x3000 - 2 * PAGE + 0x20
    assert tally.pages.resident_bytes == 0x21000


def test_an_empty_row_and_one_that_is_all_top() -> None:
    row = Row(BASE)
    row.top(0x1000)
    assert check(row).top_bytes == 0x1000
    nothing = Row(BASE).region(limit=BASE, map_end=BASE)
    with Image().memory() as memory:
        tally = memory.walk(nothing)
    assert (tally.stopped_at, tally.stop_reason, tally.unread_bytes) == (BASE, STOP_LIMIT, 0)


# ---- malloc_trim's rule: whole pages behind the first 48 bytes of a free run ----


@pytest.mark.parametrize("size", [4096, 4128, 4144, 4160, 8224, 8240, 12288])
def test_whole_pages_of_a_free_chunk_at_every_place_in_a_page(size: int) -> None:
    for offset in range(0, PAGE, 16):
        row = Row(BASE)
        row.live_up_to(BASE + PAGE + offset)
        row.free(size)
        row.live_up_to(BASE + 6 * PAGE)
        first, beyond = offset + 48, offset + size
        whole = sum(1 for page in range(8) if first <= page * PAGE and (page + 1) * PAGE <= beyond)
        tally = check(row)
        assert tally.trimmable_bytes == whole * PAGE
        assert tally.pinned_bytes == size - whole * PAGE
        assert tally.trim_range_count == (whole > 0)


def test_a_page_and_48_bytes_is_the_least_that_can_give_back_a_page() -> None:
    for size, pages in ((4128, 0), (4144, 1)):
        row = Row(BASE)
        row.live_up_to(BASE + PAGE - 48)
        row.free(size)
        row.live_up_to(BASE + 3 * PAGE)
        assert check(row).trimmable_bytes == pages * PAGE


def test_fastbin_chunks_join_their_free_neighbours() -> None:
    def row() -> Row:
        made = Row(BASE)
        made.live_up_to(BASE + 0x800)
        made.fast(0x80)
        made.free(0x700)  # up to BASE + 0xf80
        made.fast(0x40)
        made.fast(0x40)
        made.free(0x1000)  # on its own it holds the 48 bytes of pages 1 and 2
        made.fast(0x20)
        made.live_up_to(BASE + 3 * PAGE)
        return made

    merged = check(row(), merge_fastbins=True)
    assert (merged.trimmable_bytes, merged.trim_range_count) == (PAGE, 1)
    assert merged.pinned_bytes == 0x700 + 0x1000 + 0x80 + 0x40 + 0x40 + 0x20 - PAGE
    apart = check(row(), merge_fastbins=False)
    assert (apart.trimmable_bytes, apart.trim_range_count) == (0, 0)
    assert apart.pinned_bytes == merged.pinned_bytes + PAGE


def test_cached_chunks_and_tcaches_own_do_not_join() -> None:
    for kind in ("tcache", "tcache_struct", "live"):
        row = Row(BASE)
        row.live_up_to(BASE + 0x800)
        row.free(0xC00)
        row.add(kind, 0x290)
        row.free(0xC00)
        row.live_up_to(BASE + 3 * PAGE)
        assert check(row).trim_range_count == 0


@pytest.mark.parametrize("pad", [0, 16, 4096, 100_000])
@pytest.mark.parametrize("unit", [PAGE, 2 << 20])
def test_top_gives_back_all_but_33_bytes_and_the_pad_in_units(unit: int, pad: int) -> None:
    for top_size in (unit, unit + 32, unit + 48, unit + pad + 32, unit + pad + 48, 3 * unit + pad):
        row = Row(BASE)
        row.live_up_to(BASE + (top_size // unit + 2) * unit - top_size)
        row.top(top_size)
        released = max(top_size - 33 - pad, 0) // unit * unit
        tally = check(row, trim_unit=unit, trim_pad=pad)
        assert tally.trimmable_bytes == released
        assert tally.trim_range_count == (released > 0)


def test_what_is_mlocked_stays_and_so_does_what_lies_behind_it_in_the_same_free_chunk() -> None:
    row = Row(BASE)
    row.live_up_to(BASE + 0x800)
    row.free(0x7000)  # pages 1 to 6 are whole
    row.live_up_to(BASE + 9 * PAGE)
    row.free(0x2000)  # page 10 is whole
    row.live_up_to(BASE + 12 * PAGE)
    inside = check(row, locked=[BASE + 3 * PAGE, BASE + 4 * PAGE])
    assert (inside.trimmable_bytes, inside.locked_trim_bytes) == (3 * PAGE, 4 * PAGE)
    assert inside.trim_range_count == 2
    across = check(row, locked=[BASE, BASE + 2 * PAGE, BASE + 10 * PAGE, BASE + 11 * PAGE])
    assert (across.trimmable_bytes, across.locked_trim_bytes) == (0, 7 * PAGE)
    assert across.pinned_bytes == inside.pinned_bytes == 0x9000 - 7 * PAGE


def test_the_break_is_lowered_whether_top_is_mlocked_or_not() -> None:
    row = Row(BASE)
    row.live_up_to(BASE + 0x800)
    row.top(0x4800)
    tally = check(row, trim_unit=PAGE, locked=[BASE, BASE + 5 * PAGE])
    assert (tally.trimmable_bytes, tally.trim_break_bytes) == (4 * PAGE, 4 * PAGE)
    assert (tally.top_trimmable_bytes, tally.locked_trim_bytes) == (4 * PAGE, 0)


def test_a_top_that_is_smaller_than_the_least_chunk_gives_back_nothing() -> None:
    row = Row(BASE)
    row.live_up_to(BASE + PAGE - 16)
    row.top(16)
    assert check(row, trim_unit=PAGE, trim_pad=(1 << 64) - 1).trimmable_bytes == 0


def test_a_free_run_that_touches_top_becomes_part_of_it() -> None:
    def row(first_kind: str) -> Row:
        made = Row(BASE)
        made.live_up_to(BASE + 0x900)
        made.add(first_kind, 0x2000)
        made.fast(0x80)
        made.top(BASE + 0x5000 - made.end)  # 0x2980 to 0x5000
        return made

    in_main = check(row("bin"), trim_unit=PAGE)
    # the joined top is 0x4700 bytes; 0x4000 go, of which 0x1980 were a free chunk's or a fastbin's
    assert in_main.trimmable_bytes == 0x4000
    assert in_main.pinned_bytes == 0x2080 - 0x1980
    assert in_main.trim_range_count == 1
    apart = check(row("bin"), trim_unit=PAGE, merge_fastbins=False)
    assert apart.trimmable_bytes == 0x2000 + PAGE  # the free chunk's page 1, and of top 2 pages
    in_thread = check(row("bin"), trim_unit=0)
    assert in_thread.trimmable_bytes == 0
    assert in_thread.pinned_bytes == 0x2080
    live = check(row("live"), trim_unit=PAGE)
    assert live.trimmable_bytes == 0x2000
    assert live.pinned_bytes == 0x80


# ---- page states ----


def test_only_resident_pages_count() -> None:
    row = Row(BASE)
    row.live(0x1000)
    row.free(0x9000)  # headers and links on page 1; pages 2 to 9 would go
    row.live(0x1000)  # page 10
    row.top(0x5000)  # pages 11 to 15
    states = [
        (0x2000, 0x3000, 0),
        (0x3000, 0x5000, SWAPPED),
        (0x5000, 0x6000, PRESENT | ZERO),
        (0x6000, 0x8000, PRESENT | HUGE),
        (0xC000, 0xD000, 0),
        (0xD000, 0xE000, SWAPPED),
    ]
    tally = check(row, states, trim_unit=PAGE)
    pages = tally.pages
    assert pages.resident_bytes == (16 - 1 - 2 - 1 - 1 - 1) * PAGE
    assert pages.swapped_bytes == 3 * PAGE
    assert pages.zero_bytes == PAGE
    assert pages.huge_bytes == 2 * PAGE
    assert tally.bin_bytes == 9 * PAGE
    assert tally.bin_resident_bytes == 5 * PAGE
    assert tally.top_resident_bytes == 3 * PAGE
    # of the free chunk pages 6 to 9, of top (its first page stays) pages 14 and 15
    assert tally.trimmable_bytes == 4 * PAGE + 2 * PAGE
    assert tally.pinned_bytes == PAGE


def test_pinned_are_the_resident_free_bytes_that_stay() -> None:
    row = Row(BASE)
    row.live(0x20)
    for _ in range(40):
        row.free(0x7E0)
        row.live(0x20)
    row.live_up_to(BASE + 21 * PAGE)
    tally = check(row, [(4 * PAGE, 8 * PAGE, PRESENT | ZERO)])
    assert tally.trimmable_bytes == 0
    # every page holds two gaps and two live chunks of 32 bytes
    assert tally.pinned_bytes == (40 - 4 * 2) * 0x7E0
    assert tally.bin_bytes == 40 * 0x7E0


def test_pages_held_counts_each_page_once_per_class() -> None:
    row = Row(BASE)
    for _ in range(200):
        row.live(0x40)
        row.live(0x30)
    row.live_up_to(BASE + 8 * PAGE)
    tally = check(row, [(PAGE, 2 * PAGE, PRESENT | ZERO)])
    held = {c.min_bytes: c.pages_held for c in tally.classes if c.min_bytes in (0x30, 0x40)}
    assert held == {0x30: 5, 0x40: 5}  # 22,400 bytes touch 6 pages, one of which is a zero page


def test_size_classes_meet_without_a_gap() -> None:
    sizes = [32, 48, 1024, 1040, 1056, 1136, 1152, 2032, 2048, 2288, 2304, 4080, 4096, 65520, 65536]
    row = Row(BASE)
    for size in sizes:
        row.live(size)
    row.live_up_to(BASE + 60 * PAGE)
    tally = check(row)
    assert [c.min_bytes for c in tally.classes[:-1]] == [
        *(32, 48, 1024, 1040, 1056, 1152, 1920, 2048, 2304, 3840, 4096, 61440, 65536)
    ]
    assert [c.live_count for c in tally.classes[:-1]] == [1, 1, 1, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1]
    for lower, upper in itertools.pairwise(range(66, 390)):
        assert lib.as_class_min(upper) > lib.as_class_min(lower)
        assert lib.as_class_of(lib.as_class_min(upper)) == upper
        assert lib.as_class_of(lib.as_class_min(upper) - 16) == lower
    assert lib.as_class_of((1 << 64) - 16) == lib.AS_CLASSES - 1


# ---- windows ----


@pytest.mark.parametrize("back", [16, 32, 48])
def test_a_chunk_whose_header_and_links_lie_across_a_window(back: int) -> None:
    row = Row(BASE + 0x10)
    for window in (1, 2):
        row.live_up_to(BASE + (window << 20) - back)
        row.free(0x1800)
    row.live_up_to(BASE + (2 << 20) + 0x2000)
    row.top(0x1000)
    tally = check(row)
    assert tally.bin_count == 2


def test_a_region_longer_than_can_be_held_with_few_pages() -> None:
    row = Row(BASE + 0x10)
    row.live(0x20)
    row.free(96 << 20)
    row.live(0x20)
    row.free(0x2000)
    row.live_up_to(BASE + (96 << 20) + 0x8000)
    row.link([chunk for chunk in row.chunks if chunk.kind == "bin"], BIN)
    image = Image()
    large = row.chunks[1]
    row.write(image)
    for number in range(BASE // PAGE + 1, (large.end - 0x1000) // PAGE):
        del image.pages[number], image.states[number]
    region = row.region()
    tally = walk(image, region)
    assert figures(tally) == expected(row.chunks, image, region)
    assert walk(image, region, held=True) == tally
    assert tally.bin_bytes == (96 << 20) + 0x2000
    assert tally.pages.resident_bytes < 0x20000


# ---- the map of pages ----


def test_each_page_says_what_it_is_used_for() -> None:
    """One page of each kind; that the map is right everywhere is part of :func:`check`."""
    row = Row(BASE)
    row.live(0x100)  # a sixteenth of page 0
    row.free(0x2F00)  # ends page 2
    row.live(0x1800)  # page 3 and half of page 4
    row.cached(0x2000)  # up to half of page 6
    row.live_up_to(BASE + 10 * PAGE)
    row.top(0x1000)
    away = [(7 * PAGE, 8 * PAGE, SWAPPED), (8 * PAGE, 9 * PAGE, PRESENT | ZERO)]
    tally = check(row, away, trim_unit=0)
    held, all_of_it = page_map.HELD, page_map.HELD + page_map.SHARES - 1
    assert tally.cells is not None
    assert list(tally.cells) == [
        held,
        page_map.TRIMMABLE,
        page_map.TRIMMABLE,
        all_of_it,
        held + 7,
        page_map.FREE,
        held + 7,
        page_map.SWAPPED,
        page_map.ABSENT,
        all_of_it,
        page_map.FREE,
    ]


def test_pages_are_called_the_same_in_c_and_in_python() -> None:
    names = ("ABSENT", "SWAPPED", "OTHER", "FREE", "TRIMMABLE", "LAZY", "HELD", "SHARES")
    for name in names:
        assert getattr(page_map, name) == getattr(lib, f"AS_CELL_{name}")


def test_pages_are_mapped_only_when_asked_for() -> None:
    row = Row(BASE)
    row.live(0x1000)
    with row.image().memory() as memory:
        memory.maps_pages = False
        assert memory.walk(row.region()).cells is None
