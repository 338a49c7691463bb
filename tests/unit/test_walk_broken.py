"""The chunk walk where rows end, are interrupted, or contradict themselves."""

from __future__ import annotations

import time
from typing import Any

import pytest
from oracle import rows as oracle
from unit.heaps import PAGE, PRESENT, SWAPPED, ZERO, Image, Row, expected, figures, plainly

from allocscope.model.walk import (
    STOP_BROKEN_TOP,
    STOP_DAMAGE,
    STOP_DEADLINE,
    STOP_FENCEPOST,
    STOP_LIMIT,
    STOP_TOP,
    Region,
    Tally,
)

BASE = 0x7F3400000000
BIN = 0x7F1100000070


def walk(image: Image, region: Region) -> Tally:
    """The walk's figures, which are those of the oracle, too."""
    with image.memory() as memory:
        tally = memory.walk(region)
        with memory.keeping([(region.first, region.limit)], region.top):
            assert memory.walk(region) == tally
    plain = oracle.walk(
        image.word,
        first=region.first,
        limit=region.limit,
        top=region.top,
        tcache=region.tcache,
        fastbin=region.fastbin,
        tcache_struct=region.tcache_struct,
        known=region.known,
    )
    assert figures(tally) == plainly(plain, image, region)
    return tally


def linked_image(row: Row) -> Image:
    row.link([chunk for chunk in row.chunks if chunk.kind == "bin"], BIN)
    return row.image()


# ---- where a row ends ----


def ends_soundly(row: Row, **changes: Any) -> Tally:
    image = linked_image(row)
    region = row.region(**changes)
    tally = walk(image, region)
    reason = {"stop_reason": tally.stop_reason, "stopped_at": tally.stopped_at}
    assert figures(tally) == expected(row.chunks, image, region, **reason)
    return tally


@pytest.mark.parametrize("before", ["live", "bin", "tcache"])
def test_a_heap_ends_in_a_chunk_of_16_and_a_header_of_size_0(before: str) -> None:
    row = Row(BASE + 0x30, non_main=True)
    row.live(0x500)
    row.add(before, BASE + 0x3000 - 32 - row.end)
    row.heap_end()
    tally = ends_soundly(row)
    assert tally.fencepost_bytes == 32
    assert (tally.stop_reason, tally.stopped_at) == (STOP_LIMIT, BASE + 0x3000)


def test_a_heap_whose_old_top_was_all_fencepost() -> None:
    row = Row(BASE + 0x30, non_main=True)
    row.live_up_to(BASE + 0x3000 - 32)
    row.heap_end(old_top=32)
    assert ends_soundly(row).fencepost_bytes == 32


def test_an_old_top_of_48_bytes_is_a_fencepost_of_32_and_no_live_chunk() -> None:
    row = Row(BASE + 0x30, non_main=True)
    row.live_up_to(BASE + 0x3000 - 48)
    row.heap_end(old_top=48)
    tally = ends_soundly(row)
    assert tally.fencepost_bytes == 48
    assert tally.live_count == 1


@pytest.mark.parametrize("count", [2, 3])
def test_foreign_memory_begins_behind_two_fenceposts_or_three(count: int) -> None:
    row = Row(BASE + 0x10)
    row.live(0x40)
    row.add("live" if count == 3 else "bin", BASE + 0x4000 - count * 16 - row.end)
    row.fenceposts(count)
    end = row.end
    tally = ends_soundly(row)
    assert (tally.stop_reason, tally.stopped_at) == (STOP_LIMIT, end)
    image = linked_image(row)
    image.words(end, *[0x4141414141414141] * 1024)  # not ours
    region = row.region(limit=end + 0x2000, map_end=end + 0x2000, top=end + 0x1800)
    tally = walk(image, region)
    assert (tally.stop_reason, tally.stopped_at) == (STOP_FENCEPOST, end)
    assert tally.fencepost_bytes == count * 16
    assert tally.damage_count == tally.unread_bytes == 0


def test_a_row_that_ends_at_its_limit_without_a_mark() -> None:
    row = Row(BASE)
    row.live(0x2000)
    tally = ends_soundly(row)
    assert tally.stop_reason == STOP_LIMIT


def test_a_top_that_does_not_end_where_it_must() -> None:
    row = Row(BASE)
    row.live(0x1000)
    top = row.top(0x1000)
    image = row.image()
    image.words(top.address + 8, 0x800 | 1)
    tally = walk(image, row.region())
    assert tally.stop_reason == STOP_BROKEN_TOP
    assert tally.top_bytes == 0x1000


# ---- interruptions ----


def three_pages_of_chunks() -> Row:
    """Chunks of 0x100 bytes, every eighth free, on pages 0 to 3; then top."""
    row = Row(BASE)
    for i in range(64):
        row.add("bin" if i % 8 == 4 else "live", 0x100)
    row.top(0x2000)
    return row


@pytest.mark.parametrize("flags", [0, SWAPPED])
def test_headers_that_are_swapped_out_are_unread_up_to_the_next_known_chunk(flags: int) -> None:
    row = three_pages_of_chunks()
    image = linked_image(row)
    image.state(BASE + PAGE, BASE + 2 * PAGE, flags)
    tally = walk(image, row.region(known=[BASE + 0x2C00, row.chunks[-1].address]))
    assert tally.unread_bytes == 0x2C00 - 0x1000  # the fifth chunk of page 2 is known
    assert tally.first_damage == BASE + 0x1000
    assert tally.damage_count == 1
    assert tally.stop_reason == STOP_TOP
    assert tally.live_count + tally.bin_count == 16 + (64 - 0x2C)


def test_a_page_of_the_zero_page_is_read_and_is_damage() -> None:
    row = three_pages_of_chunks()
    image = linked_image(row)
    image.pages[BASE // PAGE + 1] = bytearray(PAGE)
    image.state(BASE + PAGE, BASE + 2 * PAGE, PRESENT | ZERO)
    tally = walk(image, row.region(known=[]))
    assert tally.unread_bytes == 0x4000 - 0x1000
    assert tally.stop_reason == STOP_TOP


@pytest.mark.parametrize("word", [0, 8, 0x18, 0x1F, 0x108 | 1, 1 << 40, (1 << 64) - 1])
def test_a_damaged_size_word(word: int) -> None:
    row = three_pages_of_chunks()
    image = linked_image(row)
    image.words(BASE + 0x708, word)
    tally = walk(image, row.region())
    assert tally.first_damage == BASE + 0x700
    assert tally.unread_bytes == 0xC00 - 0x700
    assert tally.damage_count == 1


@pytest.mark.parametrize("kind", ["known", "tcache", "fastbin", "tcache_struct", "top"])
def test_after_damage_the_walk_goes_on_at_whatever_is_known(kind: str) -> None:
    row = three_pages_of_chunks()
    image = linked_image(row)
    image.words(BASE + 0x708, 0)
    told: dict[str, Any] = {"known": [], "tcache": [], "fastbin": [], "tcache_struct": [], "top": 0}
    at = BASE + 0x4000 if kind == "top" else BASE + 0x900
    told[kind] = at if kind == "top" else [at]
    tally = walk(image, row.region(**told))
    assert tally.unread_bytes == at - (BASE + 0x700)
    assert tally.stop_reason == (STOP_TOP if kind == "top" else STOP_LIMIT)
    assert tally.missed_mark_count == 0


def test_damage_with_nothing_known_behind_it() -> None:
    row = three_pages_of_chunks()
    image = linked_image(row)
    image.words(BASE + 0x708, 0)
    tally = walk(image, row.region(known=[BASE + 0x100], top=0))
    assert (tally.stop_reason, tally.stopped_at) == (STOP_DAMAGE, BASE + 0x700)
    assert tally.unread_bytes == row.end - (BASE + 0x700)


def test_an_unaligned_known_chunk_is_damage_again() -> None:
    row = three_pages_of_chunks()
    image = linked_image(row)
    image.words(BASE + 0x708, 0)
    tally = walk(image, row.region(known=[BASE + 0x808, BASE + 0x900]))
    assert tally.damage_count == 2
    assert tally.unread_bytes == 0x200


def test_a_chunk_that_reaches_over_top_is_cut_there() -> None:
    row = Row(BASE)
    row.live(0x1000)
    victim = row.live(0x200)
    row.top(0xE00)
    image = row.image()
    image.words(victim.address + 8, 0x1000 | 1)  # still the size of the top it was cut from
    tally = walk(image, row.region())
    assert tally.cut_at_top_count == 1
    assert (tally.live_bytes, tally.top_bytes) == (0x1200, 0xE00)
    assert tally.stop_reason == STOP_TOP


def test_marks_inside_another_chunk_are_missed() -> None:
    row = Row(BASE)
    row.live(0x100)
    row.cached(0x40)
    row.fast(0x40)
    row.tcache_struct(0x290)
    row.live(0x70)
    row.top(0x1000)
    image = row.image()
    whole = row.region()
    assert walk(image, whole).missed_mark_count == 0
    for name in ("tcache", "fastbin", "tcache_struct"):
        marks = sorted([*getattr(whole, name), BASE + 0x20, BASE + 0x30])
        tally = walk(image, row.region(**{name: marks}))
        assert tally.missed_mark_count == 2
        assert tally.live_count == 2
    beyond = row.region(tcache=[*whole.tcache, row.end + 0x20])
    assert walk(image, beyond).missed_mark_count == 0


def test_a_mark_named_twice_is_missed_once() -> None:
    row = Row(BASE)
    cached = row.cached(0x40)
    row.top(0x1000)
    tally = walk(row.image(), row.region(tcache=[cached.address] * 2))
    assert (tally.tcache_count, tally.missed_mark_count) == (1, 1)


def test_a_footer_that_disagrees() -> None:
    row = three_pages_of_chunks()
    image = linked_image(row)
    assert walk(image, row.region()).footer_mismatch_count == 0
    image.words(BASE + 0x500, 0xF0)
    assert walk(image, row.region()).footer_mismatch_count == 1


def test_a_deadline_that_has_passed() -> None:
    row = three_pages_of_chunks()
    with linked_image(row).memory() as memory:
        memory.deadline_ns = time.monotonic_ns() - 1
        tally = memory.walk(row.region())
    assert tally.stop_reason == STOP_DEADLINE
    assert tally.unread_bytes == row.end - BASE


# ---- lists and chunks, compared by sums ----


def sums_agree(row: Row, image: Image, fd: int, bk: int) -> bool:
    """Do the bin's list and the walk tell the same? (fd, bk: those of the bin's head)"""
    tally = walk(image, row.region())
    with image.memory() as memory:
        here, forward, backward = (memory.hash_sum([address]) for address in (BIN, fd, bk))
    mask = (1 << 64) - 1
    return (
        (here + tally.bin_node_hash) & mask
        == (forward + tally.bin_fd_hash) & mask
        == (backward + tally.bin_bk_hash) & mask
    )


def test_sums_tell_a_whole_list_from_one_with_a_chunk_more_or_less() -> None:
    row = three_pages_of_chunks()
    free = [chunk for chunk in row.chunks if chunk.kind == "bin"]
    fd, bk = row.link(free[::2] + free[1::2], BIN)
    assert sums_agree(row, row.image(), fd, bk)

    fd, bk = row.link(free[1:], BIN)  # the first is in no list
    assert not sums_agree(row, row.image(), fd, bk)

    fd, bk = row.link([chunk for chunk in row.chunks if chunk.kind == "bin"], BIN)
    image = row.image()
    behind = free[3].address + 0x100
    image.words(behind + 8, 0x100 | 1)  # the fourth is listed, but in use
    assert not sums_agree(row, image, fd, bk)

    image = row.image()
    image.words(free[2].address + 16, free[4].address)  # fd passes the fourth by, bk does not
    assert not sums_agree(row, image, fd, bk)


def test_the_hash_is_splitmix64() -> None:
    with Image().memory() as memory:
        for address in (0, 16, BASE, (1 << 64) - 1):
            assert memory.hash_sum([address]) == oracle.mixed(address)


# ---- chains: where does a row begin? ----


def test_a_chain_reaches_what_it_leads_to_and_nothing_else() -> None:
    row = three_pages_of_chunks()
    end = row.end
    with linked_image(row).memory() as memory:
        assert memory.chain_reaches(BASE, end, [BASE + 0x4000])
        assert memory.chain_reaches(BASE, end, [])
        assert not memory.chain_reaches(BASE + 0x10, end, [BASE + 0x4000])
        assert memory.chain_reaches(BASE, end - 0x100, [BASE + 0x300])
        assert not memory.chain_reaches(BASE, end - 0x100, [BASE])  # to arrive, it must go
        assert not memory.chain_reaches(BASE, end - 16, [BASE + 0x4010])
        assert not memory.chain_reaches(end, end + PAGE, [])
        assert not memory.chain_reaches(end + PAGE, end + 2 * PAGE, [])


@pytest.mark.parametrize("count", [2, 3])
def test_a_chain_arrives_at_fenceposts_that_end_a_page(count: int) -> None:
    row = Row(BASE)
    row.live(0x200)
    row.live_up_to(BASE + PAGE - 16 * count)
    row.fenceposts(count)
    limit = row.end + PAGE
    image = row.image()
    image.touch(BASE, limit)
    with image.memory() as memory:
        assert memory.chain_reaches(BASE, limit, [])
        assert not memory.chain_reaches(BASE + PAGE - 16 * count, limit, [])
    image.words(row.end - 8, 0x12)  # another flag
    with image.memory() as memory:
        assert not memory.chain_reaches(BASE, limit, [])
    shorter = Row(BASE)
    shorter.live_up_to(BASE + PAGE - 16 * count - 32)
    shorter.fenceposts(count)
    image = shorter.image()
    with image.memory() as memory:
        assert not memory.chain_reaches(BASE, limit, [])


@pytest.mark.parametrize("gap", [0x10, 0x1000, 0xFFF0, 0x10000, 0x54320])
@pytest.mark.parametrize("flags", [PRESENT, 0, SWAPPED])
def test_the_first_row_behind_other_memory(gap: int, flags: int) -> None:
    """Before it lie words that look like headers and lead nowhere."""
    row = Row(BASE + gap)
    row.live(0x60)
    row.free(0x90)
    row.live_up_to(BASE + gap // PAGE * PAGE + 3 * PAGE)
    image = linked_image(row)
    for address in range(BASE + gap % 0x20, BASE + gap, 0x20):
        image.words(address, 0x51, 0x31)
    image.state(BASE, BASE + gap // PAGE * PAGE, flags)
    free = row.chunks[1].address
    with image.memory() as memory:
        assert memory.row_start(BASE, row.end, row.end, [free]) == row.first
        assert memory.row_start(BASE + 5, row.first + 16, row.end, []) == row.first
        assert memory.row_start(BASE, row.first, row.end, [free]) is None
        assert memory.row_start(BASE, row.end, row.end - 16, [BASE + gap + 8]) is None
        assert memory.row_start(row.end, BASE, row.end, [free]) is None
        assert memory.row_start(row.first + 16, row.end, row.end, []) == free
