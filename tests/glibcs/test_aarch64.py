"""aarch64 programs under each arm64 glibc of Debian's archive, emulated: their cores are read here,
on another machine, and held against the program's own figures.

Such a core tells no thread pointers, so tcaches are found by what they look like. That thread-local
storage is read too, above the thread pointer, is tried with the addresses that the emulator saw the
threads give to the kernel.
"""

from __future__ import annotations

import dataclasses
import time

import pytest

from allocscope.app import heap
from allocscope.app.arenas_core import arenas_of_core
from allocscope.app.core_target import look_at
from allocscope.files.core import Core
from allocscope.glibc.threads import ThreadHead
from glibcs import emulated, fetch, judge, programs

SEED, THREADS, STEPS = "7", "6", "1500"
SECONDS = 120


@pytest.fixture(scope="module")
def stress(tmp_path_factory):
    program = tmp_path_factory.mktemp("bin") / "stress"
    return programs.build([programs.HERE / "stress.c"], program, machine="arm64")


@pytest.fixture(scope="module", params=fetch.SUITES)
def tree(request):
    found = fetch.tree(request.param, machine="arm64")
    if isinstance(found, fetch.NotFetched):
        pytest.skip(f"the archive does not answer for {found.suite}: {found.reason}")
    return found


@pytest.fixture(scope="module")
def ended(tree, stress, tmp_path_factory):
    directory = tmp_path_factory.mktemp("emulated")
    with emulated.core_of(tree, stress, directory, SEED, THREADS, STEPS) as found:
        yield found


def read_with(path, robust_lists):
    """The reading of a core whose threads have these robust lists."""
    deadline_ns = time.monotonic_ns() + SECONDS * 1_000_000_000
    with Core(path, deadline_ns=deadline_ns) as core:
        found = look_at(core, None)
        threads = tuple(ThreadHead(n, "", head) for n, head in enumerate(robust_lists, 1))
        target = dataclasses.replace(found.target, threads=threads)
        where = (found.located, found.image)
        answer = heap.read(core, target, sort=heap.FROZEN, deadline_ns=deadline_ns, found=where)
        return answer.reading


def test_a_core_is_read_exactly(tree, ended):
    report = arenas_of_core(ended.core, exe=None, deadline_s=SECONDS)
    assert len(report.data.arenas) > 1
    assert judge.stress_differences(report, ended.truth) == []
    assert report.libc.layout.startswith("D/" if tree.version >= "2.43" else "C/")
    assert "tcaches-by-shape" in [caveat.code for caveat in report.caveats]


def test_thread_local_storage_above_the_thread_pointer(ended):
    shaped, told = read_with(ended.core, []), read_with(ended.core, ended.robust_lists)
    assert (shaped.shaped_count > 1, told.shaped_count) == (True, 0)
    with_tcache = [thread for thread in told.threads if thread.tcache is not None]
    assert len(with_tcache) == shaped.shaped_count  # threads that ended show none
    assert all(thread.arena is not None for thread in with_tcache)
    assert told.parked.chunks == shaped.parked.chunks
    assert told.parked.structs == shaped.parked.structs
