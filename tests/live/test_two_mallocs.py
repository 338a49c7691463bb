"""More than one malloc in a process: the one that serves the program is read, and the others are
named with what they hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from glibcs import judge
from glibcs.judge import fixture_differences
from live import targets
from live.core_files import gdbs_core

from allocscope import observe
from allocscope.app.arenas import ArenasOptions
from allocscope.app.arenas_core import arenas_of_core
from allocscope.app.arenas_frozen import arenas_frozen
from allocscope.lab.fixture import RunningFixture

DEBUG = targets.c_library().parent / "libc_malloc_debug.so.0"


def test_a_library_in_a_namespace_of_its_own(tmp_path: Path) -> None:
    program = targets.compile_c("namespaces.c", tmp_path / "namespaces", "-ldl")
    with targets.running([program]) as started:
        ours, ours_mmapped, theirs, theirs_mmapped = map(
            int, started.line(targets.READY_SECONDS).split()
        )
        report = observe(started.process.pid)
        core = gdbs_core(started.process.pid, tmp_path)
        frozen = arenas_frozen(
            started.process.pid, ArenasOptions(), ask_glibc=False, max_pause_ns=10**9
        )
    totals = report.data.totals
    assert (totals.system_bytes, totals.residue_bytes) == (ours, 0)
    assert report.data.mmapped.bytes == ours_mmapped
    dead = arenas_of_core(core, exe=None, deadline_s=60)
    assert dead.data.totals.system_bytes == ours
    for seen in (report, frozen, dead):
        [caveat] = [caveat for caveat in seen.caveats if caveat.code == "other-malloc"]
        assert f"1 arena of {theirs} bytes" in caveat.message
        assert f"of {theirs_mmapped} bytes" in caveat.message
        assert str(targets.c_library()) in caveat.message


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
