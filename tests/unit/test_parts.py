"""A row walked in parts is the row walked in one, by the plain walk in Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from unit import rows
from unit.heaps import PAGE, Row, figures
from unit.rows import Made

from allocscope.files.spans import SpanMemory
from allocscope.glibc import parts
from allocscope.model.walk import Region, Tally

SLOW_TO_MAKE = [HealthCheck.too_slow, HealthCheck.data_too_large]
BASE = 0x7F3500000000
BIN = 0x7F1100000070


@pytest.fixture(autouse=True)
def short_parts() -> Iterator[None]:
    with mock.patch.object(parts, "SHORTEST_PART_BYTES", 1024):
        yield


def walked(memory: SpanMemory, region: Region) -> tuple[Tally, list[Region]]:
    """The tally, and the regions that were walked for it."""
    seen: list[Region] = []
    walk = memory.walk

    def noted(part: Region) -> Tally:
        seen.append(part)
        return walk(part)

    with mock.patch.object(memory, "walk", noted):
        return parts.walk(memory, memory, region), seen


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=SLOW_TO_MAKE)
@given(rows.sound())
def test_sound_rows(made: Made) -> None:
    with made.image.memory() as memory:
        tally, _ = walked(memory, made.region)
    assert figures(tally) == made.walked_plainly()


def row_of_free_chunks(kinds: Sequence[tuple[str, int]], times: int = 12) -> Row:
    row = Row(BASE)
    for kind, size in list(kinds) * times:
        row.add(kind, size)
    row.top(0x2000)
    row.link([chunk for chunk in row.chunks if chunk.kind == "bin"], BIN)
    return row


def assert_as_one(row: Row) -> list[Region]:
    image = row.image()
    region = row.region(known=[c.address for c in row.chunks if c.kind in ("bin", "top")])
    with image.memory() as memory:
        tally, seen = walked(memory, region)
    assert figures(tally) == Made(row, image, region).walked_plainly()
    return seen


def test_parts_meet_at_free_chunks() -> None:
    row = row_of_free_chunks([("live", 0x700), ("bin", 2 * PAGE), ("live", 0x40)])
    seen = assert_as_one(row)
    assert len(seen) == parts.MOST_PARTS
    free = {chunk.address for chunk in row.chunks if chunk.kind == "bin"}
    assert {part.first for part in seen[1:]} <= free
    assert [part.limit for part in seen[:-1]] == [part.first for part in seen[1:]]


@pytest.mark.parametrize("before", ["fastbin", "tcache", "live"])
def test_no_seam_behind_a_fastbin_chunk(before: str) -> None:
    """malloc_trim joins it with the free chunk behind it, and their common page goes."""
    row = row_of_free_chunks([("live", 0x500), (before, 0x40), ("bin", 2 * PAGE)])
    assert (len(assert_as_one(row)) == 1) == (before == "fastbin")


def test_no_seam_within_a_page() -> None:
    """A page with live chunks of one size on both sides would count twice."""
    row = row_of_free_chunks([("live", 0x100), ("bin", 0x100)], times=6)
    assert len(assert_as_one(row)) == 1


def test_a_part_that_does_not_arrive_is_walked_again_in_one() -> None:
    row = row_of_free_chunks([("live", 0x700), ("bin", 2 * PAGE), ("live", 0x40)])
    image = row.image()
    image.words(row.chunks[3].address + 8, 0x4141414141414141)
    region = row.region(known=[c.address for c in row.chunks if c.kind in ("bin", "top")])
    with image.memory() as memory:
        tally, seen = walked(memory, region)
    assert seen[-1] == region
    assert tally.damage_count == 1
    assert figures(tally) == Made(row, image, region).walked_plainly()
