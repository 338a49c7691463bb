"""Mappings gathered by owner: sums, slabs, and what is joined and what is not."""

from __future__ import annotations

import pytest

from allocscope.account.mapview import FEWEST, kind_of, map_data
from allocscope.model.libc import Libc
from allocscope.model.mapview import MapData
from allocscope.model.owners import Holding, OwnerKey
from allocscope.model.process import Process
from allocscope.model.report import Method, Report
from allocscope.render.map import map_text
from allocscope.render.page import Look

MIB = 1 << 20
BASE = 0x7F0000000000


def holding(
    number: int,
    key: OwnerKey = "unexplained",
    owner: str = "unexplained",
    *,
    at: int | None = None,
    size: int = MIB,
    resident: int | None = None,
    evidence: str = "nothing",
    swapped: int | None = 0,
) -> Holding:
    """A mapping of its own, the ``number``-th, two sizes apart from the next."""
    start = BASE + number * 2 * size if at is None else at
    there = size if resident is None else resident
    return Holding(
        start, start + size, key, owner, evidence, "rw-p", "", number, True, there, there, 0,
        swapped, 0,
    )  # fmt: skip


def data(*holdings: Holding, raw: bool = False) -> MapData:
    return map_data(holdings, sum(part.resident_bytes for part in holdings), raw=raw)


def test_equal_slabs_are_one_row_the_oldest_being_the_highest() -> None:
    full = [holding(number) for number in range(8, 16)]
    newest = [holding(number, resident=MIB // 4) for number in range(8)]
    (row,) = data(*newest, *full).rows
    assert (row.part_count, row.slab_bytes) == (16, MIB)
    assert row.fill is not None
    assert row.fill.ratios == (1, 1, 1, 1, 0.25, 0.25, 0.25, 0.25)
    assert row.fill.full_count == 8
    assert row.sizes.resident_bytes == 10 * MIB


@pytest.mark.parametrize("count", [1, FEWEST - 1])
def test_a_few_are_no_run(count: int) -> None:
    (row,) = data(*(holding(number) for number in range(count))).rows
    assert (row.slab_bytes, row.fill, row.part_count) == (None, None, count)


def test_stacks_differ_by_a_number_and_files_by_their_name() -> None:
    stacks = [holding(n, "thread-stacks", f"stack of thread {n + 70}") for n in range(5)]
    files = [holding(n + 9, "file-private", f"/lib/libx.so.{n}", size=MIB) for n in range(5)]
    rows = data(*stacks, *files).rows
    assert [row.owner for row in rows if row.slab_bytes] == ["stack of thread N"]
    assert {row.owner for row in rows if not row.slab_bytes} == {f.owner for f in files}


def test_both_halves_of_a_heap_are_one_piece_but_two_large_chunks_are_two() -> None:
    used = holding(0, "glibc-thread-heap", "heap of arena 1", at=BASE, evidence="e1")
    reserved = holding(1, "glibc-thread-heap", "heap of arena 1", at=BASE + MIB, evidence="e1")
    chunks = [
        holding(n + 2, "glibc-mmapped", "chunk", at=BASE + n * MIB + 9 * MIB, evidence="e2")
        for n in range(2)
    ]
    heap, large = data(used, reserved, *chunks).rows
    assert (heap.part_count, heap.sizes.virtual_bytes) == (1, 2 * MIB)
    assert (large.part_count, large.sizes.virtual_bytes) == (2, 2 * MIB)


def test_what_is_unknown_of_one_part_is_unknown_of_the_sum() -> None:
    found = data(holding(0), holding(1, swapped=None))
    assert found.totals.swapped_bytes is None
    assert found.totals.private_dirty_bytes == 2 * MIB


def test_rows_stand_by_category_then_by_weight_and_raw_keeps_every_part() -> None:
    parts = (
        holding(0, "unexplained"),
        holding(1, "file-private", "/a", resident=1),
        holding(2, "file-private", "/b", resident=2),
        holding(3, "glibc-main-heap", "main heap"),
    )
    found = data(*parts, raw=True)
    assert [row.owner for row in found.rows] == ["main heap", "/b", "/a", "unexplained"]
    assert found.parts == parts
    assert data(*parts).parts == ()


def test_numbers_alone_are_left_out_of_a_kind() -> None:
    assert kind_of("heap of arena 12") == "heap of arena N"
    assert kind_of("V8 isolate") == "V8 isolate"


@pytest.mark.parametrize("width", [80, 100])
def test_the_page_fits_and_escapes_what_the_target_named(width: int) -> None:
    parts = [holding(n, resident=MIB - n * 4096) for n in range(12)]
    parts.append(holding(20, "file-private", "/srv/\x1b[2J" + "long/" * 40 + "libx.so"))
    report = Report(
        process=Process(7, 1, "prog", "/srv/prog", 1, 3.0),
        libc=Libc("glibc", "2.36", None, "/libc", None, "C", True),
        allocator=None,
        method=Method("passive", 0, 1, "quiescent"),
        data=data(*parts),
        caveats=(),
    )
    text = map_text(report, Look(width=width))
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    assert "libx.so" in text
    assert "12 × 1.0 MiB unexplained" in text
    assert text.startswith("RSS 12.7 MiB in 13 mappings; ")
