"""A row walked without knowing its fastbins, whose lists are followed afterwards, is the row walked
by who knew them: figure by figure, by the oracle's plain arithmetic."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit import rows
from unit.heaps import PAGE, PRESENT, Image, Row, expected, figures, linked
from unit.rows import Made

from allocscope.files.spans import SpanMemory
from allocscope.glibc import parts
from allocscope.model.walk import STOP_DEADLINE, FastLists, Region, Tally

SLOW_TO_MAKE = [HealthCheck.too_slow, HealthCheck.data_too_large]
BASE = 0x7F3500000000
BIN = 0x7F1100000070
SIZES = tuple(range(0x20, 0xB1, 16))
FAST_MOST = 0xB0


def memory_of(image: Image) -> SpanMemory:
    return SpanMemory(image.spans(), image.runs(), "a made-up heap")


def in_doubt(region: Region) -> Region:
    """What the walk is told that does not know the fastbins."""
    lists = FastLists(SIZES, region.first, region.limit)
    return dataclasses.replace(region, fastbin=(), locked=(), in_doubt=lists)


def without_cells(made: dict[str, object]) -> dict[str, object]:
    return {**made, "cells": None}


def settled(memory: SpanMemory, tally: Tally, heads: Sequence[int]) -> Tally | None:
    found = memory.settle([tally], heads)
    return None if found is None else parts.settled(tally, found[0])


def lists_through(image: Image, chunks: Sequence[int], seed: int) -> list[int]:
    """Puts the chunks into a few lists, in any order; returns the lists' heads."""
    choose = random.Random(seed)
    shuffled = list(chunks)
    choose.shuffle(shuffled)
    every = choose.randint(1, 4)
    lists = [shuffled[number::every] for number in range(every)]
    return [linked(image, found, mangled=True, link_offset=16) for found in lists if found]


@st.composite
def doubtful(draw: st.DrawFn) -> tuple[Made, list[int]]:
    """A sound row with small chunks in fastbins, and small live chunks that still hold a link from
    when they were in one: to any chunk, or to none."""
    row = draw(rows.rows())
    small = [c for c in row.chunks if c.kind == "fastbin" and c.size > FAST_MOST]
    for chunk in small:  # too large for a fastbin: a live one
        row.chunks[row.chunks.index(chunk)] = dataclasses.replace(chunk, kind="live")
    image = row.image()
    heads = lists_through(image, row.addresses("fastbin"), draw(st.integers(0, 99)))
    targets = st.sampled_from([0, *(chunk.address for chunk in row.chunks)])
    for chunk in row.chunks:
        if chunk.kind == "live" and chunk.size <= FAST_MOST and draw(st.booleans()):
            place = chunk.address + 16
            image.words(place, draw(targets) ^ place >> 12)
    region = row.region(
        trim_unit=draw(st.sampled_from([0, PAGE, 4 * PAGE])),
        trim_pad=draw(st.sampled_from([0, 0, 100, 5000])),
        merge_fastbins=draw(st.booleans()),
    )
    return Made(row, image, region), heads


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=SLOW_TO_MAKE)
@given(doubtful())
def test_any_row(made_and_heads: tuple[Made, list[int]]) -> None:
    made, heads = made_and_heads
    with memory_of(made.image) as memory:
        tally = settled(memory, memory.walk(in_doubt(made.region)), heads)
    assert tally is not None
    assert figures(tally) == without_cells(made.walked_plainly())


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=SLOW_TO_MAKE)
@given(doubtful())
def test_any_row_in_parts(made_and_heads: tuple[Made, list[int]]) -> None:
    made, heads = made_and_heads
    with (
        mock.patch.object(parts, "SHORTEST_PART_BYTES", 1024),
        memory_of(made.image) as memory,
    ):
        tally = settled(memory, parts.walk(memory, memory, in_doubt(made.region)), heads)
    assert tally is not None
    assert figures(tally) == without_cells(made.walked_plainly())


@pytest.fixture
def short_parts() -> Iterator[None]:
    with mock.patch.object(parts, "SHORTEST_PART_BYTES", 1024):
        yield


@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.usefixtures("short_parts")
def test_a_seam_may_follow_a_chunk_in_doubt(stale: bool) -> None:
    """malloc_trim joins a fastbin chunk and the free chunk behind it, on both sides of a seam."""
    row = Row(BASE)
    for _ in range(12):  # the row of the three begins on the page before the seam's
        row.live(0xDD0)
        row.free(0x200)
        row.add("live" if stale else "fastbin", 0x40)
        row.free(0x1FF0)
    row.live(0x40)
    row.top(0x2000)
    row.link([chunk for chunk in row.chunks if chunk.kind == "bin"], BIN)
    image = row.image()
    small = [chunk.address for chunk in row.chunks if chunk.size == 0x40][:-1]
    head = linked(image, small, mangled=True, link_offset=16)
    region = row.region(known=row.addresses("bin"))
    with memory_of(image) as memory:
        tally = parts.walk(memory, memory, in_doubt(region))
        assert len(tally.doubts) == parts.MOST_PARTS
        found = settled(memory, tally, [] if stale else [head])
    assert found is not None
    assert figures(found) == without_cells(Made(row, image, region).walked_plainly())


@pytest.mark.parametrize("seed", range(30))
def test_pages_that_several_chunks_of_a_size_hold(seed: int) -> None:
    """Each counts once, whichever of them were in doubt."""
    choose = random.Random(seed)
    row = Row(BASE)
    for _ in range(400):
        row.add(
            choose.choice(["live", "live", "fastbin"]), choose.choice([0x20, 0x30, 0x60, 0x610])
        )
    row.top(0x1000)
    row.chunks = [
        dataclasses.replace(c, kind="live") if c.size > FAST_MOST and c.kind != "top" else c
        for c in row.chunks
    ]
    image = row.image()
    heads = lists_through(image, row.addresses("fastbin"), seed)
    for chunk in row.chunks:
        if chunk.kind == "live" and chunk.size <= FAST_MOST and choose.random() < 0.7:
            link(image, chunk.address, choose.choice(row.chunks).address)
    region = row.region()
    with memory_of(image) as memory:
        found = settled(memory, memory.walk(in_doubt(region)), heads)
    assert found is not None
    assert figures(found) == without_cells(expected(row.chunks, image, region))


def row_with_a_list() -> tuple[Row, Image, list[int]]:
    row = Row(BASE)
    for _ in range(5):
        row.live(0x100)
        row.fast(0x50)
    row.top(0x1000)
    image = row.image()
    order = row.addresses("fastbin")
    linked(image, order, mangled=True, link_offset=16)
    return row, image, order


def link(image: Image, chunk: int, target: int) -> None:
    image.words(chunk + 16, target ^ (chunk + 16) >> 12)


@pytest.mark.parametrize("wrong", ["circle", "itself", "live", "inside", "outside", "twice"])
def test_a_list_that_leads_elsewhere_settles_nothing(wrong: str) -> None:
    row, image, order = row_with_a_list()
    heads = [order[0]]
    targets = {
        "circle": order[1],
        "itself": order[3],
        "live": row.addresses("live")[2],
        "inside": order[2] + 16,
        "outside": BASE - PAGE,
    }
    if wrong == "twice":
        heads.append(order[2])
    else:
        link(image, order[3], targets[wrong])
    with memory_of(image) as memory:
        tally = memory.walk(in_doubt(row.region()))
        assert memory.settle([tally], heads) is None


def test_without_lists_all_chunks_in_doubt_are_live() -> None:
    row, image, order = row_with_a_list()
    as_live = [
        dataclasses.replace(chunk, kind="live") if chunk.address in order else chunk
        for chunk in row.chunks
    ]
    region = row.region(fastbin=())
    with memory_of(image) as memory:
        found = settled(memory, memory.walk(in_doubt(region)), [])
    assert found is not None
    assert figures(found) == without_cells(expected(as_live, image, region))


def test_one_list_through_several_rows() -> None:
    made = [Row(BASE), Row(BASE + 0x100000), Row(BASE + 0x200000)]
    image = Image()
    for row in made:
        for _ in range(20):
            row.live(0x40)
            row.fast(0x40)
        row.top(0x1000)
        row.write(image)
    order = [a for few in zip(*(r.addresses("fastbin") for r in made), strict=True) for a in few]
    head = linked(image, order, mangled=True, link_offset=16)
    lists = FastLists(SIZES, made[0].first, made[-1].end)
    with memory_of(image) as memory:
        tallies = [
            memory.walk(dataclasses.replace(in_doubt(row.region()), in_doubt=lists))
            for row in reversed(made)
        ]
        found = memory.settle(tallies, [head])
        assert found is not None
        for row, tally, more in zip(reversed(made), tallies, found, strict=True):
            region = row.region()
            walked = figures(parts.settled(tally, more))
            assert walked == without_cells(expected(row.chunks, image, region))


def test_a_link_on_a_page_that_is_not_there_is_no_doubt() -> None:
    row = Row(BASE)
    row.live(PAGE - 16)
    chunk = row.fast(0x40)
    row.live(2 * PAGE)
    row.top(0x1000)
    image = row.image()
    link(image, chunk.address, 0)
    image.state(BASE + PAGE, BASE + 2 * PAGE, 0)
    with memory_of(image) as memory:
        tally = memory.walk(in_doubt(row.region()))
        assert memory.settle([tally], [chunk.address]) is None
        found = settled(memory, tally, [])
    assert found is not None
    assert (found.live_count, found.damage_count) == (2, 1)


def test_a_deadline_leaves_what_was_read() -> None:
    row, image, _ = row_with_a_list()
    with memory_of(image) as memory:
        memory.deadline_ns = 1
        tally = memory.walk(in_doubt(row.region()))
        assert tally.stop_reason == STOP_DEADLINE
        found = settled(memory, tally, [])
    assert found is not None and found.unread_bytes == tally.unread_bytes > 0


def test_too_many_chunks_in_doubt_settle_nothing_and_leave_room_behind() -> None:
    """All logs of the process share 2**20 entries; what is forgotten makes room again."""
    row = Row(BASE)
    for _ in range(3 << 16):
        row.fast(0x20)
    row.top(0x1000)
    image = Image()
    image.touch(row.first, row.end)
    data = bytearray(row.end - row.first)
    for chunk in row.chunks[:-1]:
        at = chunk.address - row.first
        data[at + 8 : at + 16] = (chunk.size | 1).to_bytes(8, "little")
        data[at + 16 : at + 24] = (chunk.address + 16 >> 12).to_bytes(8, "little")
    image.write(row.first, bytes(data))
    image.words(row.addresses("top")[0] + 8, 0x1001)
    assert all(state == PRESENT for state in image.states.values())
    region = in_doubt(row.region())
    with memory_of(image) as memory:
        walks = [memory.walk(region) for _ in range(6)]
        heads = [row.first]
        assert memory.settle([walks[0]], heads) is not None
        assert memory.settle([walks[-1]], heads) is None
        walks.clear()
        assert memory.settle([memory.walk(region)], heads) is not None
