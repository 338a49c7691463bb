"""aarch64 programs under each arm64 glibc of Debian's archive, run by qemu, which writes a core of
what it emulates: read here, on another machine, and held against the program's own figures.

Such a core tells no thread pointers, so tcaches are found by what they look like. That thread-local
storage is read too, above the thread pointer, is tried with the addresses that qemu saw the threads
give to the kernel.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import resource
import signal
import subprocess
import time

import pytest

from allocscope.app import heap
from allocscope.app.arenas_core import arenas_of_core
from allocscope.app.core_target import look_at
from allocscope.files.core import Core
from allocscope.glibc.threads import ThreadHead
from glibcs import fetch, judge, programs

SEED, THREADS, STEPS = "7", "6", "3000"
SECONDS = 120


@pytest.fixture(scope="module")
def stress(tmp_path_factory):
    program = tmp_path_factory.mktemp("bin") / "stress"
    return programs.build([programs.HERE / "stress.c"], program, machine="arm64")


@pytest.fixture(scope="module", params=fetch.SUITES)
def emulated(request, stress, tmp_path_factory):
    """The core of the program at rest, its truth, and the robust lists of its threads."""
    tree = fetch.tree(request.param, machine="arm64")
    if isinstance(tree, fetch.NotFetched):
        pytest.skip(f"the archive does not answer for {tree.suite}: {tree.reason}")
    directory = tmp_path_factory.mktemp("emulated")
    calls = directory / "calls"
    command = ["qemu-aarch64-static", "-strace", "-D", str(calls), *programs.loader_of(tree)]
    with subprocess.Popen(
        [*command, str(stress), SEED, THREADS, STEPS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=directory,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2),
    ) as process:
        assert process.stdout is not None
        truth = json.loads(process.stdout.readline())["truth"]
        os.kill(process.pid, signal.SIGABRT)
        process.wait(SECONDS)
    [core] = directory.glob("qemu_*.core")
    lists = re.findall(r"set_robust_list\(0x([0-9a-f]+)", calls.read_text())
    yield tree, core, truth, [int(digits, 16) for digits in lists]
    for path in directory.iterdir():
        path.unlink()


def test_a_core_is_read_exactly(emulated):
    tree, core, truth, _ = emulated
    report = arenas_of_core(core, exe=None, deadline_s=SECONDS)
    assert len(report.data.arenas) > 1
    assert judge.stress_differences(report, truth) == []
    assert report.libc.layout is not None
    assert report.libc.layout.startswith("D/" if tree.version >= "2.43" else "C/")
    assert "tcaches-by-shape" in [caveat.code for caveat in report.caveats]


def test_thread_local_storage_above_the_thread_pointer(emulated):
    _, path, _, lists = emulated
    deadline_ns = time.monotonic_ns() + SECONDS * 1_000_000_000
    answers = []
    for anchors in ([], lists):
        with Core(path, deadline_ns=deadline_ns) as core:
            found = look_at(core, None)
            threads = tuple(ThreadHead(n, "", anchor) for n, anchor in enumerate(anchors, 1))
            target = dataclasses.replace(found.target, threads=threads)
            answers.append(
                heap.read(
                    core,
                    target,
                    sort=heap.FROZEN,
                    deadline_ns=deadline_ns,
                    found=(found.located, found.image),
                )
            )
    shaped, told = (answer.reading for answer in answers)
    assert told.shaped_count == 0
    assert shaped.shaped_count > 1
    # threads that ended have given their tcaches back, and show none
    with_tcache = [thread for thread in told.threads if thread.tcache is not None]
    assert len(with_tcache) == shaped.shaped_count
    assert all(thread.arena is not None for thread in with_tcache)
    assert told.parked.chunks == shaped.parked.chunks
    assert told.parked.structs == shaped.parked.structs
