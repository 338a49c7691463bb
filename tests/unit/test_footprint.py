"""footprint: the formula, trees, sums, old kernels, and what the page says."""

from __future__ import annotations

import dataclasses

import pytest
from test_render_json import validate

from allocscope.account import footprint as account
from allocscope.errors import BadInput
from allocscope.model.footprint import Footprint, FootprintAnswer, FootprintData
from allocscope.model.process import ProcessStatus, SmapsRollup
from allocscope.model.report import Caveat
from allocscope.parse import smaps, status
from allocscope.render import footprint as page
from allocscope.render import json
from allocscope.render.page import Look

MIB = 1 << 20
STATUS = status.parse(
    b"Name:\tmy\\nname\\\\x\nState:\tS (sleeping)\nTgid:\t7\nPid:\t7\nPPid:\t3\nTracerPid:\t0\n"
    b"Uid:\t0\t0\t0\t0\nVmHWM:\t  9000 kB\nVmRSS:\t  8000 kB\nVmPTE:\t  40 kB\nVmSwap:\t  12 kB\n"
)
ROLLUP = b"""\
55d0c0a00000-7ffc0f1f2000 ---p 00000000 00:00 0                          [rollup]
Rss:                8000 kB
Pss:                6000 kB
Pss_Dirty:          5000 kB
Pss_Anon:           4000 kB
Pss_File:           1500 kB
Pss_Shmem:           500 kB
Shared_Clean:       2000 kB
Shared_Dirty:       1000 kB
Private_Clean:      1000 kB
Private_Dirty:      4000 kB
LazyFree:            600 kB
Swap:                 12 kB
SwapPss:               8 kB
Locked:                0 kB
"""
SMAPS_OF_4_9 = b"""\
00400000-00401000 r-xp 00000000 fe:00 12 /bin/x
Size:                  4 kB
Rss:                   4 kB
Pss:                   2 kB
Shared_Clean:          4 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:         0 kB
Swap:                  0 kB
SwapPss:               0 kB
VmFlags: rd ex mr
01000000-01002000 rw-p 00000000 00:00 0 [heap]
Size:                  8 kB
Rss:                   8 kB
Pss:                   8 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:         8 kB
Swap:                  4 kB
SwapPss:               4 kB
VmFlags: rd wr mr
"""


def rollup(**changes: int | None) -> SmapsRollup:
    return dataclasses.replace(smaps.rollup(ROLLUP), **changes)  # type: ignore[arg-type]


def row(pid: int, footprint: int | None, comm: str = "x", **changes: int | None) -> Footprint:
    one = dataclasses.replace(account.row(pid, STATUS, rollup()), comm=comm)
    return dataclasses.replace(one, footprint_bytes=footprint, **changes)  # type: ignore[arg-type]


def answer(*rows: Footprint, caveats: tuple[Caveat, ...] = ()) -> FootprintAnswer:
    forbidden = sum(row.pss_bytes is None for row in rows)
    return FootprintAnswer(
        FootprintData(rows, account.totals(rows), forbidden, 0, ()), caveats, 1_000_000
    )


def test_the_name_and_the_parent_are_those_of_status() -> None:
    assert (STATUS.comm, STATUS.ppid) == ("my\nname\\x", 3)


def test_the_formula() -> None:
    found = account.row(7, STATUS, rollup())
    assert found.footprint_bytes == (4000 + 500 + 8 - 600 + 40) * 1024
    assert found.uss_bytes == 5000 * 1024
    assert found.peak_rss_bytes == 9000 * 1024
    assert found.page_table_bytes == 40 * 1024


def test_a_footprint_is_never_below_zero() -> None:
    """LazyFree counts shared pages in full, PSS divides them."""
    found = account.footprint_bytes(STATUS, rollup(pss_anon_bytes=0, lazyfree_bytes=900 * MIB))
    assert found == 0


@pytest.mark.parametrize(
    "missing", ["pss_anon_bytes", "pss_shmem_bytes", "swap_pss_bytes", "lazyfree_bytes"]
)
def test_what_this_kernel_does_not_tell_is_unknown(missing: str) -> None:
    assert account.footprint_bytes(STATUS, rollup(**{missing: None})) is None


def test_without_smaps_rollup_smaps_is_added_up() -> None:
    found = smaps.total(SMAPS_OF_4_9)
    assert (found.rss_bytes, found.pss_bytes) == (12 * 1024, 10 * 1024)
    assert (found.private_dirty_bytes, found.swap_bytes) == (8 * 1024, 4 * 1024)
    assert (found.pss_anon_bytes, found.lazyfree_bytes) == (None, None)
    assert account.footprint_bytes(STATUS, found) is None
    with pytest.raises(BadInput):
        smaps.total(SMAPS_OF_4_9[:-30])
    with pytest.raises(BadInput):
        smaps.total(b"")


def test_a_tree_takes_in_all_descendants_once() -> None:
    parents = {2: 1, 3: 1, 4: 3, 5: 5, 6: 7, 7: 6}  # the last three are what no kernel shows
    known = {pid: row(pid, pid * MIB) for pid in (1, 2, 3, 4, 5, 6, 7)}
    rows = account.with_trees(list(known.values()), known, parents)
    sums = {row.pid: row.tree_footprint_bytes for row in rows}
    expected = {1: 10, 2: 2, 3: 7, 4: 4, 5: 5, 6: 13, 7: 13}
    assert sums == {pid: size * MIB for pid, size in expected.items()}


def test_a_tree_with_an_unknown_part_is_unknown_and_one_that_vanished_is_not_in_it() -> None:
    known = {1: row(1, MIB), 2: row(2, None)}
    [first, _] = account.with_trees(list(known.values()), known, {2: 1, 3: 1})
    assert first.tree_footprint_bytes is None
    del known[2]
    [alone] = account.with_trees([known[1]], known, {2: 1, 3: 1})
    assert alone.tree_footprint_bytes == MIB


def test_those_that_may_not_be_read_are_in_no_sum() -> None:
    forbidden = account.row(9, STATUS, None)
    assert (forbidden.rss_bytes, forbidden.pss_bytes) == (8000 * 1024, None)
    sums = account.totals([row(1, MIB), row(2, 2 * MIB), forbidden])
    assert sums.footprint_bytes == 3 * MIB
    assert sums.rss_bytes == 2 * 8000 * 1024
    assert sums.retained_bytes is None
    kept = account.totals([row(1, MIB, retained_bytes=5), row(2, MIB)])
    assert kept.retained_bytes == 5


@pytest.mark.parametrize(
    ("sort", "pids"),
    [("footprint", [2, 1, 4, 3]), ("pid", [1, 2, 3, 4]), ("name", [4, 2, 1, 3])],
)
def test_the_order(sort: str, pids: list[int]) -> None:
    rows = (row(1, 5, "c"), row(2, 9, "b"), row(3, None, "d"), row(4, 5, "a"))
    assert [found.pid for found in page.ordered(rows, sort)] == pids


@pytest.mark.parametrize("width", [80, 100])
def test_the_page(width: int) -> None:
    caveat = Caveat("vanished", "1 process ended before they could be read.")
    rows = [row(100 + i, i * MIB, f"worker-{i}", retained_bytes=None) for i in range(1, 30)]
    shown = page.footprint(
        answer(*rows, caveats=(caveat,)), "footprint", False, Look(width, rows=3)
    )
    lines = shown.splitlines()
    assert lines[0] == "29 processes: 129 worker-29 holds most, 29.0 MiB of 435.0 MiB together."
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines if "worker" in line][1:] == ["129", "128", "127"]
    assert any(line.startswith("… 26 more") for line in lines)
    assert "note: 1 process ended" in shown


def test_a_name_cannot_steer_the_terminal() -> None:
    shown = page.footprint(answer(row(1, MIB, "\x1b[2J")), "footprint", False, Look())
    assert "\x1b" not in shown and "\\x1b[2J" in shown


def test_the_json_keeps_its_schema() -> None:
    found = answer(row(1, MIB), account.row(9, STATUS, None))
    validate(json.wrap("footprint", 1.0, data=json.plain(found.data)), "footprint")


def test_a_kernel_thread_has_no_sizes() -> None:
    text = b"Name:\tkthreadd\nState:\tS\nTgid:\t2\nPPid:\t0\nTracerPid:\t0\nUid:\t0\t0\t0\t0\n"
    found: ProcessStatus = status.parse(text)
    assert (found.rss_bytes, found.comm) == (None, "kthreadd")
