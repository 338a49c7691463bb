"""More than one malloc in a process: the one that serves the program is read, and the others are
named with what they hold."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from glibcs import judge
from glibcs.judge import fixture_differences
from live import targets
from live.core_files import gdbs_core

from allocscope import observe
from allocscope.app import heap
from allocscope.app.arenas import ArenasOptions
from allocscope.app.arenas_core import arenas_of_core
from allocscope.app.arenas_file import arenas_of_file, target_of
from allocscope.app.arenas_frozen import arenas_frozen
from allocscope.app.record import RecordOptions, record
from allocscope.app.target import first_malloc
from allocscope.files.recording import open_sample
from allocscope.lab.fixture import RunningFixture

THEIR_CHUNKS = 6000
"""What the program allocates from the second library's arena (targets/namespaces.c)."""
PAGE_BYTES = 4096
DEBUG = targets.c_library().parent / "libc_malloc_debug.so.0"


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[int, list[int]]]:
    """The pid of a program that uses two C libraries, and what each says of itself: bytes of its
    arena and of its mappings, the program's own first."""
    program = targets.compile_c("namespaces.c", tmp_path / "namespaces", "-ldl")
    with targets.running([program]) as started:
        said = [int(number) for number in started.line(targets.READY_SECONDS).split()]
        yield started.process.pid, said


def test_a_library_in_a_namespace_of_its_own(two: tuple[int, list[int]], tmp_path: Path) -> None:
    pid, (ours, ours_mmapped, theirs, theirs_mmapped) = two
    report = observe(pid)
    recording, core = tmp_path / "a.rec", gdbs_core(pid, tmp_path)
    frozen = arenas_frozen(pid, ArenasOptions(), ask_glibc=False, max_pause_ns=10**9)
    record(pid, recording, RecordOptions())
    recorded = arenas_of_file(recording, sample=None, deadline_s=60).report
    for seen in (report, frozen, recorded, arenas_of_core(core, exe=None, deadline_s=60)):
        totals, mmapped = seen.data.totals, seen.data.mmapped
        assert (totals.system_bytes, totals.residue_bytes) == (ours, 0)
        assert mmapped.bytes == ours_mmapped
        # nothing in memory tells whose they are
        assert mmapped.found_bytes == ours_mmapped + theirs_mmapped
        codes = [caveat.code for caveat in seen.caveats if not caveat.code.startswith("core-")]
        assert codes == ["other-malloc"]
        [caveat] = [caveat for caveat in seen.caveats if caveat.code == "other-malloc"]
        assert f"1 arena of {theirs} bytes" in caveat.message
        assert f"of {theirs_mmapped} bytes" in caveat.message
        assert str(targets.c_library()) in caveat.message
    assert (recorded.data.arenas, recorded.data.mmapped) == (
        report.data.arenas,
        report.data.mmapped,
    )


def test_a_recording_holds_both_to_the_last_chunk(
    two: tuple[int, list[int]], tmp_path: Path
) -> None:
    pid, (_, _, theirs, _) = two
    path = tmp_path / "a.rec"
    record(pid, path, RecordOptions())
    found = open_sample(path)
    with found.memory:
        target = target_of(found.facts)
        [image] = found.facts.others
        attempt = first_malloc(found.memory, [image], target.anonymous_spans, page_bytes=PAGE_BYTES)
        read = functools.partial(
            heap.read,
            found.memory,
            target,
            sort=heap.VALIDATED,
            deadline_ns=time.monotonic_ns() + 60 * 10**9,
            recorded=True,
        )
        answer = read(found=attempt, beside=[read()])
    totals = heap.present(answer, target, rss_bytes=None, smaps=None).totals
    assert answer.image == image
    assert answer.reading.sound
    assert (totals.system_bytes, totals.residue_bytes, totals.unread_bytes) == (theirs, 0, 0)
    assert totals.live_count >= THEIR_CHUNKS


CHECKS = {"switched off": {}, "switched on": {"GLIBC_TUNABLES": "glibc.malloc.check=3"}}


@pytest.mark.parametrize("checks", CHECKS)
@pytest.mark.parametrize("name", ["scattered", "pinned-top", "big-mmaps", "healthy"])
def test_libc_malloc_debug(name: str, checks: str, running: Callable[..., RunningFixture]) -> None:
    if not DEBUG.exists():
        pytest.skip("glibc 2.34 or newer is needed for libc_malloc_debug")
    environment = {"LD_PRELOAD": str(DEBUG), **CHECKS[checks]}
    target = running(name, scale=0.3, environment=environment)
    report = observe(target.pid)
    assert report.libc is not None
    assert report.allocator is not None
    assert (report.allocator.name, report.allocator.others) == ("glibc", ("libc_malloc_debug",))
    if checks == "switched off":  # it hands all calls on
        assert report.libc.path == str(targets.c_library())
        assert fixture_differences(report, target.truth) == []
        return
    assert report.libc.path.endswith("/libc_malloc_debug.so.0")
    assert judge.broken_sums(report) == []
    # its chunks end in a mark, so only what its own mallinfo counts is comparable
    totals, truth = report.data.totals, target.truth
    assert totals.system_bytes == truth["system_bytes"]
    assert judge.free_bytes(totals) == truth["free_bytes"]
    assert totals.tcache_count == 0
