"""Where a process may live: the figures are the same to the byte, whether the program is static or
not, its files are gone, replaced, or reached along no path of ours, and its pid is another there.

Truth: the stress program's own arithmetic and its mallinfo; and glibc itself, asked in a frozen
copy.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from glibcs import judge, programs
from live import targets
from live.cli import command
from live.core_files import gdbs_core
from live.test_bad_targets_cli import NOBODY, as_user

from allocscope import observe
from allocscope.app.arenas import ArenasOptions
from allocscope.app.arenas_core import arenas_of_core
from allocscope.app.arenas_file import arenas_of_file
from allocscope.app.arenas_frozen import arenas_frozen
from allocscope.app.record import RecordOptions, record
from allocscope.lab.child import Child, child
from allocscope.model.heap import ArenasData
from allocscope.model.report import Report

OPTIONS = ["7", "5", "8000"]
"""Seed, threads, steps."""
MAX_PAUSE_NS = 1_000_000_000


class Living(NamedTuple):
    """The pid as we see it, and what the program said."""

    pid: int
    truth: dict[str, Any]


def stress(directory: Path, *flags: str) -> Path:
    """The stress program, built in ``directory``."""
    program = directory / "stress"
    words = ["gcc", "-O2", "-pthread", *flags, str(programs.HERE / "stress.c"), "-o", str(program)]
    subprocess.run(words, check=True, timeout=targets.READY_SECONDS)
    return program


Place = Callable[[Path], contextlib.AbstractContextManager[Living]]


def told(started: Child) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(started.line(targets.READY_SECONDS))
    return found


@contextlib.contextmanager
def started(command: Sequence[str | Path]) -> Iterator[Living]:
    with child([str(word) for word in [*command, *OPTIONS]]) as process:
        yield Living(process.pid, told(process)["truth"])


def built(*flags: str) -> Place:
    @contextlib.contextmanager
    def place(directory: Path) -> Iterator[Living]:
        with started([stress(directory, *flags)]) as living:
            yield living

    return place


@contextlib.contextmanager
def chrooted(directory: Path) -> Iterator[Living]:
    start = targets.root_with(stress(directory.parent), directory)
    with started(["chroot", directory, *start]) as living:
        yield living


def beside(directory: Path) -> list[str | Path]:
    """A program with a loader and a C library of its own, in a directory like any other."""
    loader, *_, program = targets.root_with(stress(directory.parent), directory)
    return [f"{directory}{loader}", "--library-path", directory, f"{directory}{program}"]


@contextlib.contextmanager
def deleted(directory: Path) -> Iterator[Living]:
    with started(beside(directory)) as living:
        for path in directory.iterdir():
            path.unlink()
        yield living


@contextlib.contextmanager
def upgraded(directory: Path) -> Iterator[Living]:
    with started(beside(directory)) as living:
        for path in directory.iterdir():
            path.unlink()
            path.write_bytes(b"\x7fELF, and nothing that follows is as it was")
        yield living


@contextlib.contextmanager
def contained(directory: Path) -> Iterator[Living]:
    """Its files are on a file system that only its mount namespace has; there it is process 1."""
    (directory / "files").mkdir()
    (directory / "mount").mkdir()
    loader, *_, program = targets.root_with(stress(directory.parent), directory / "files")
    there = directory / "mount"
    script = (
        f"mount -t tmpfs none {there} && cp {directory}/files/* {there} && "
        f'exec {there}{loader} --library-path {there} {there}{program} "$@"'
    )
    command = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script, "sh", *OPTIONS]
    with child(command) as process:
        said = told(process)
        assert said["pid"] == 1
        yield Living(targets.only_child(process.pid), said["truth"])


PLACES: dict[str, Place] = {
    "position-independent": built("-fPIE", "-pie"),
    "at a fixed address": built("-fno-pie", "-no-pie"),
    "static": built("-static"),
    "static and position-independent": built("-static-pie"),
    "without symbols": built("-s"),
    "files deleted": deleted,
    "files replaced": upgraded,
    "in a chroot": chrooted,
    "in a container": contained,
}
STATIC = {"static", "static and position-independent"}
AS_ROOT = {"in a chroot", "in a container", "files deleted", "files replaced"}


@pytest.fixture(params=PLACES)
def living(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Living]]:
    if request.param in AS_ROOT:
        targets.need_root()
    (tmp_path / "place").mkdir()
    with PLACES[request.param](tmp_path / "place") as found:
        yield request.param, found


def differences(name: str, report: Report[ArenasData], truth: dict[str, Any]) -> list[str]:
    """What is not as the program says. A static one allocates before main, which it does not know:
    then its mallinfo alone is compared."""
    if name not in STATIC:
        return judge.stress_differences(report, truth)
    return judge.broken_sums(report) + judge.unlike_glibc(report, truth)


def test_every_figure_is_that_of_the_program(living: tuple[str, Living], tmp_path: Path) -> None:
    name, (pid, truth) = living
    live = observe(pid)
    assert differences(name, live, truth) == []
    assert live.process.pid == pid
    record(pid, tmp_path / "a.rec", RecordOptions())
    core = gdbs_core(pid, tmp_path)
    recorded = arenas_of_file(tmp_path / "a.rec", sample=None, deadline_s=60).report
    assert recorded.data.arenas == live.data.arenas
    assert differences(name, arenas_of_core(core, exe=None, deadline_s=60), truth) == []
    frozen = arenas_frozen(pid, ArenasOptions(), ask_glibc=False, max_pause_ns=MAX_PAUSE_NS)
    assert differences(name, frozen, truth) == []


def test_glibc_itself_agrees(living: tuple[str, Living]) -> None:
    name, (pid, truth) = living
    report = arenas_frozen(pid, ArenasOptions(), ask_glibc=True, max_pause_ns=MAX_PAUSE_NS)
    assert differences(name, report, truth) == []
    assert report.data.glibc_says is not None
    assert report.data.glibc_says.agrees, report.data.glibc_says.differences


def test_what_only_a_capability_would_tell_is_named_with_it(tmp_path: Path) -> None:
    """A deleted file can be opened with CAP_CHECKPOINT_RESTORE alone, which nobody has."""
    (tmp_path / "place").mkdir()
    with started([*as_user(NOBODY), *beside(tmp_path / "place")]) as (pid, truth):
        for path in (tmp_path / "place").iterdir():
            path.unlink()
        done = command("arenas", "--json", str(pid), wrapper=as_user(NOBODY))
        full = observe(pid)
    answer = json.loads(done.stdout)
    assert done.returncode == 0
    assert (answer["libc"]["version"], answer["libc"]["build_id"]) == (None, None)
    [caveat] = answer["caveats"]
    assert caveat["code"] == "libc-file"
    assert "CAP_CHECKPOINT_RESTORE" in caveat["message"]
    assert judge.stress_differences(full, truth) == []
    assert full.caveats == ()
    assert answer["data"]["totals"]["live_bytes"] == full.data.totals.live_bytes
    assert answer["data"]["totals"]["resident_bytes"] == full.data.totals.resident_bytes
