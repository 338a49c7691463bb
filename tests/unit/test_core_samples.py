"""Recorded cores of glibcs that Debian does not carry: every figure against what that glibc itself
printed in the same process just before, and against the program's own count (samples/README.md)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from allocscope.account.crosscheck import compare
from allocscope.app import heap
from allocscope.app.arenas_core import arenas_of_core
from allocscope.app.core_target import look_at
from allocscope.files.core import Core
from allocscope.glibc.lists import process_lists
from allocscope.model.heap import ArenasData
from allocscope.model.report import Report
from allocscope.parse import malloc_info
from allocscope.parse.core_notes import CoreThread

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
LAYOUTS = {"2.27": "C/heap32/T2/P3", "2.39": "C/heap48/T4/P4"}
FOREVER = 1 << 62


class Sample(NamedTuple):
    """A core, open, with what glibc and the program said."""

    version: str
    core: Core
    info: bytes
    live_usable: int
    live_count: int


@pytest.fixture(params=sorted(LAYOUTS))
def sample(request: pytest.FixtureRequest) -> Iterator[Sample]:
    version = request.param
    text = (SAMPLES / f"glibc-{version}.malloc_info.xml").read_bytes()
    said = re.search(rb"live_usable (\d+) live_count (\d+) pid \d+ -->\s*$", text)
    assert said is not None
    with Core(SAMPLES / f"glibc-{version}.core.xz", deadline_ns=FOREVER) as core:
        yield Sample(version, core, text, int(said[1]), int(said[2]))


def answer_of(sample: Sample) -> heap.HeapAnswer:
    found = look_at(sample.core, None)
    return heap.read(
        sample.core,
        found.target,
        sort=heap.FROZEN,
        deadline_ns=time.monotonic_ns() + 60 * 10**9,
        found=(found.located, found.image),
    )


def report_of(version: str) -> Report[ArenasData]:
    return arenas_of_core(SAMPLES / f"glibc-{version}.core.xz", exe=None, deadline_s=60)


def test_every_figure_is_glibcs_own(sample: Sample) -> None:
    info = malloc_info.parse(sample.info)
    answer = answer_of(sample)
    lists = process_lists(sample.core, answer.reading)
    assert compare(info, None, lists) == ()
    assert len(info.heaps) == 4
    assert sum(item.bin_count for item in lists.arenas) > 200
    assert answer.libc.layout == LAYOUTS[sample.version]


def test_what_is_live_is_what_the_program_holds(sample: Sample) -> None:
    """And glibc's own: the dynamic thread vector (dtv) of each thread but the first, whose loader
    made it. Usable size is chunk size less 8, for a chunk with a mapping of its own less 16."""
    report = report_of(sample.version)
    totals, mmapped = report.data.totals, report.data.mmapped
    own = [size for t in sample.core.notes.threads if (size := dtv_chunk(sample.core, t))]
    assert len(own) == 3
    assert (mmapped.count, mmapped.bytes) == (mmapped.found_count, mmapped.found_bytes)
    assert totals.live_count + mmapped.count == sample.live_count + len(own)
    usable = totals.live_bytes - sum(own) - 8 * (totals.live_count - len(own))
    usable += mmapped.bytes - 16 * mmapped.count
    assert usable == sample.live_usable


def dtv_chunk(core: Core, thread: CoreThread) -> int:
    """Size of the chunk that a thread's dtv lies in (its pointer is the second word of the thread
    control block, and points to the second of the vector's 16-byte elements); 0 where that is the
    loader's own memory."""
    pointer = word(core, thread.thread_pointer + 8)
    return word(core, pointer - 16 - 8) & ~7


def word(core: Core, address: int) -> int:
    return int.from_bytes(core.read(address, 8), "little")


def test_all_adds_up_and_what_a_core_cannot_tell_is_null(sample: Sample) -> None:
    report = report_of(sample.version)
    assert not report.partial
    assert [c.code for c in report.caveats] == ["core-residency", "core-incomplete"]
    for arena in report.data.arenas:
        assert (arena.figures.residue_bytes, arena.figures.unread_bytes) == (0, 0)
        assert arena.consistency == "frozen"
    totals = report.data.totals
    assert (totals.swapped_bytes, totals.huge_bytes, report.data.rss_bytes) == (None, None, None)
    assert totals.private_dirty_bytes is None
    assert report.process.comm == f"s-{sample.version}"
    assert (report.process.start_ticks, report.process.uptime_s) == (None, None)
    assert report.process.exe.endswith(f"/s-{sample.version}")
    assert (report.method.source, report.method.consistency) == ("core", "frozen")
    assert len(report.data.threads) == 4
    assert sorted(t.arena_index or 0 for t in report.data.threads) == [0, 1, 2, 3]
    assert sum(t.tcache_bytes for t in report.data.threads) == totals.tcache_bytes


def test_the_layout_does_not_come_from_the_librarys_name(sample: Sample) -> None:
    """The same file under another name: the paths in the notes are all changed alike."""
    names = re.compile(r"/[^/]*$")
    notes = sample.core.notes
    files = tuple(
        type(file)(file.start, file.end, file.offset, names.sub("/libfalse-2.31.so", file.path))
        for file in notes.files
    )
    sample.core.notes = type(notes)(notes.pid, notes.comm, notes.entry, notes.threads, files)
    assert answer_of(sample).libc.layout == LAYOUTS[sample.version]
