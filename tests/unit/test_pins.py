"""What holds free memory: the native count against a plain one, chunk by chunk and page by page;
kinds by shape; pointers found in made-up memory."""

from __future__ import annotations

import dataclasses
import struct

import pytest
from hypothesis import given
from unit.heaps import PAGE, Image
from unit.rows import Made, sound

from allocscope.account.kinds import kind_of, readable
from allocscope.glibc.abi import WIDE
from allocscope.model.walk import HELD_FASTBIN, HELD_LIVE, HELD_NOTHING, HELD_STRUCT, HELD_TCACHE

AT = 0x7F9A00000000


def held_kind(kind: str, merges: bool) -> int:
    """What a chunk is for whoever wants the end of its heap back."""
    if kind == "fastbin":
        return HELD_NOTHING if merges else HELD_FASTBIN
    return {"live": HELD_LIVE, "tcache": HELD_TCACHE, "tcache_struct": HELD_STRUCT}.get(
        kind, HELD_NOTHING
    )


@given(sound())
def test_the_walk_counts_what_a_plain_one_counts(made: Made) -> None:
    region = dataclasses.replace(made.region, pins=True)
    with made.image.memory() as memory:
        tally = memory.walk(region)
        same = memory.walk(made.region)
    assert dataclasses.replace(tally, pins=None) == same
    pins = tally.pins
    assert pins is not None
    chunks = [c for c in made.row.chunks if c.kind not in ("fencepost", "top")]
    pages: dict[int, tuple[int, list[int], bool]] = {}
    last = run = below = None
    count, free_from = 0, 0
    for chunk in chunks:
        kind = held_kind(chunk.kind, region.merge_fastbins)
        for number in range(chunk.address // PAGE, (chunk.end - 1) // PAGE + 1):
            free, sizes, parked = pages.get(number, (0, [], False))
            low, high = max(chunk.address, number * PAGE), min(chunk.end, (number + 1) * PAGE)
            if kind == HELD_NOTHING:
                free += high - low
            elif kind == HELD_LIVE:
                sizes = [*sizes, chunk.size]
            else:
                parked = True
            pages[number] = (free, sizes, parked)
        if kind == HELD_NOTHING:
            free_from = free_from or chunk.address
            continue
        if last is None or free_from:
            run, count, below = chunk.address, 0, free_from or chunk.address
        last, count, free_from = chunk, count + 1, 0
    if last is None:
        assert pins.last == 0
        return
    assert (pins.last, pins.last_size) == (last.address, last.size)
    assert pins.last_kind == held_kind(last.kind, region.merge_fastbins)
    assert (pins.run_start, pins.run_count, pins.below_start) == (run, count, below)
    resident = {number for number in pages if _is_resident(made, number)}
    alone, mixed, parked_free = 0, 0, 0
    for number in resident:
        free, sizes, parked = pages[number]
        if not sizes:
            parked_free += free if parked else 0
        elif len({_class(pins_size) for pins_size in sizes}) == 1:
            alone += free
        else:
            mixed += free
    assert sum(row.pinned_bytes for row in pins.classes) == alone
    assert (pins.mixed_bytes, pins.parked_bytes) == (mixed, parked_free)


def _is_resident(made: Made, number: int) -> bool:
    with made.image.memory() as memory:
        return memory.residency(number * PAGE, (number + 1) * PAGE).resident_bytes == PAGE


def _class(size: int) -> tuple[int, int]:
    """16-byte steps up to 1040, then eight for each power of two."""
    if size <= 1040:
        return 0, size
    power = size.bit_length() - 1
    return power, size >> (power - 3)


# ---- who points there ----


def test_pointers_are_found_with_their_targets_and_all_counted() -> None:
    image = Image()
    image.touch(AT, AT + 3 * PAGE)
    image.words(AT + 8, 0x5000, 0x5010, 0x4FFF, 0x6000)
    image.words(AT + 2 * PAGE - 8, 0x7008)
    image.words(AT + 2 * PAGE, 0x7000)
    with image.memory() as memory:
        found, totals, scanned = memory.references(
            (AT, AT + 3 * PAGE), [(0x5000, 0x5011), (0x7000, 0x7010)], 1
        )
    assert [(f.where_address, f.value, f.target) for f in found] == [
        (AT + 8, 0x5000, 0),
        (AT + 2 * PAGE - 8, 0x7008, 1),
    ]
    assert totals == [2, 2]
    assert scanned == 3 * PAGE


def test_pages_that_are_absent_are_not_searched() -> None:
    image = Image()
    image.words(AT, 0x5000)
    image.words(AT + PAGE, 0x5000)
    image.state(AT, AT + PAGE, 0)
    with image.memory() as memory:
        found, totals, scanned = memory.references((AT, AT + 2 * PAGE), [(0x5000, 0x5008)], 4)
    assert [f.where_address for f in found] == [AT + PAGE]
    assert (totals, scanned) == ([1], PAGE)


def test_an_address_belongs_to_the_chunk_that_it_lies_in() -> None:
    image = Image()
    image.touch(AT, AT + PAGE)
    for offset, size in ((0, 0x40), (0x40, 0x20), (0x60, 0x7)):
        image.words(AT + offset, 0, size | 1)
    with image.memory() as memory:
        found = memory.chunks_at(AT, AT + PAGE, [AT + 0x3F, AT + 0x40, AT + 0x5F, AT + 0x60])
    assert found == [AT, AT + 0x40, AT + 0x40, 0]


# ---- kinds ----


def nowhere(_address: int) -> str:
    return ""


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (bytes(64), "zero"),
        (b"a sentence that somebody kept\0\x01\x02\x03", "string"),
        (struct.pack("<4Q", 1, 2, 3, 4), "unknown"),
        (b"\x01\x02\x03\x04\x05\x06\x07\x08", "unknown"),
    ],
)
def test_kinds_by_shape(first: bytes, kind: str) -> None:
    assert kind_of(first, WIDE, nowhere, hex).type == kind


def test_pointers_and_vtables() -> None:
    def place(address: int) -> str:
        return {1: "data", 2: "heap"}.get(address >> 32, "")

    def name(address: int) -> str:
        return "libshop.so!_ZTVN4shop5OrderE+0x10" if address >> 32 == 1 else hex(address)

    pointers = struct.pack("<4Q", 2 << 32, (2 << 32) + 64, 0, 5)
    assert kind_of(pointers, WIDE, place, name).type == "pointer-array"
    made = kind_of(struct.pack("<2Q", (1 << 32) + 16, 7), WIDE, place, name)
    assert (made.type, made.name) == ("vtable", "shop::Order")


@pytest.mark.parametrize(
    ("mangled", "shown"),
    [("3Bar", "Bar"), ("N3foo3BarE", "foo::Bar"), ("St6vectorIiE", "St6vectorIiE"), ("9x", "9x")],
)
def test_names_of_classes(mangled: str, shown: str) -> None:
    assert readable(mangled) == shown
