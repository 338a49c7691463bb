"""SIGKILL of our side: at each request of ptrace in turn, and at random instants.

Strategy for the steps: strace kills the process that makes request k of ptrace, on entering it, for
all k that an undisturbed run makes. For gdb, which allocscope starts, a program of that name in
front of PATH puts strace around the real one. Strategy for the instants: a process that has all
modules loaded forks for each try; the child is killed after a time drawn from what the action took
when nobody disturbed it.

Rules: after every kill the target is examined (its own counts, the state and tracer of each task,
children, descriptors). Zombies of ours are allowed until the next run collects them; at the end
there are none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from glibcs.fetch import Tree
from live.steady import build as build_steady
from live.steady import children, same_program, state, steady, wait_end

from torture import victim
from torture.storms import KINDS
from torture.targets import Target, build, names, running

ROOT = Path(__file__).resolve().parents[2]
STEPS = (
    ("storm-1", "snapshot", "allocscope"),
    ("storm-1", "rehearse", "allocscope"),
    ("storm-1", "trim", "allocscope"),
    ("calls", "snapshot", "allocscope"),
    ("calls", "rehearse", "allocscope"),
    ("calls", "trim", "allocscope"),
    ("calls", "clean", "allocscope"),
    ("calls", "ask", "allocscope"),
    ("calls", "ask", "gdb"),
)
"""To which program, what is done, and whose requests are the ones to be killed at."""
MANY_ZOMBIES = 20
_PYTHON = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
_KILLED = (128 + signal.SIGKILL, -signal.SIGKILL)


@dataclasses.dataclass
class Row:
    """Kills of one of our processes on one target. ``requests``: of an undisturbed run; ``killed``:
    how many runs it really ended; ``zombies``: left for the next run, most at once."""

    program: str
    action: str
    victim: str
    requests: int = 0
    runs: int = 0
    killed: int = 0
    zombies: int = 0
    seconds: float = 0.0


def steps(kind: str, tree: Tree, action: str, killed: str, limit: int | None = None) -> Row:
    """A kill at every request, or at ``limit`` of them spread evenly. Raises Harmed."""
    row = Row(kind, action, killed)
    begun = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as directory,
        running(tree, build(Path(directory), KINDS[kind][0]), *KINDS[kind][1:]) as target,
    ):
        log = Path(directory) / "requests"
        if action == "clean":
            _leave_one(target)
        _run(target.pid, action, killed, 0, log)
        row.requests = _requests(log)
        count = min(row.requests, limit or row.requests)
        for index in range(count):
            number = 1 + index * row.requests // count
            row.runs += 1
            if action == "clean":
                _leave_one(target)
            came = _run(target.pid, action, killed, number, log)
            # A run that finds a fit thread sooner makes fewer requests; nothing else spares it.
            assert came or _requests(log) < number, f"request {number} was made, and killed nobody"
            row.killed += came
            target.examine()
            row.zombies = max(row.zombies, len(target.zombies()))
        _collect(target)
    row.seconds = round(time.monotonic() - begun, 1)
    return row


def _command(action: str, pid: int) -> list[str]:
    return [sys.executable, str(ROOT / "tests/torture/victim.py"), action, str(pid)]


def _leave_one(target: Target) -> None:
    """A zombie, as a run leaves one that is killed after it has let the target go on."""
    with subprocess.Popen(
        _command("hold", target.pid),
        env=os.environ | _PYTHON,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as run:
        assert run.stdout and run.stdout.readline() == b"held\n"
        run.kill()
    target.examine()
    assert target.zombies(), "a killed run has left nothing to be taken away"


def _requests(log: Path) -> int:
    """How many requests strace saw."""
    return log.read_text().count("ptrace(PTRACE_")


def _run(pid: int, action: str, killed: str, number: int, log: Path) -> bool:
    """One run, killed at that request, or undisturbed for 0; whether the kill happened."""
    # All threads of the one program that is meant, but none that it starts.
    follow = ["-f", "-b", "execve"] if killed == "allocscope" else []
    strace = ["strace", *follow, "-qqq", "-o", str(log), "-e", "trace=ptrace"]
    if number:
        strace += ["-e", f"inject=ptrace:signal=KILL:when={number}"]
    command = _command(action, pid)
    log.unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        path = os.environ["PATH"]
        if killed == "gdb":
            path = os.pathsep.join([stack.enter_context(_gdb_under(strace)), path])
        else:
            command = [*strace, *command]
        done = subprocess.run(
            command, env=os.environ | _PYTHON | {"PATH": path}, stderr=subprocess.DEVNULL
        )
    return done.returncode in _KILLED or "+++ killed by SIGKILL" in log.read_text()


@contextlib.contextmanager
def _gdb_under(strace: list[str]) -> Iterator[str]:
    """A directory with a program called gdb: the real one below strace."""
    real = shutil.which("gdb")
    assert real, "gdb is not installed"
    with tempfile.TemporaryDirectory() as directory:
        wrapper = Path(directory) / "gdb"
        wrapper.write_text(f'#!/bin/sh\nexec {" ".join(strace)} {real} "$@"\n')
        wrapper.chmod(0o755)
        yield directory


def _collect(target: Target) -> None:
    """The next run finds what the killed ones left."""
    victim.snapshot(target.pid)
    target.examine()
    assert target.zombies() == [], "zombies were left that the next run did not collect"


def instants(action: str, kills: int, mib: int, seed: int = 1) -> Row:
    """Kills at random instants on a target of that size with threads in many kinds of calls."""
    row = Row(f"steady, {mib} MiB", action, "allocscope")
    begun = time.monotonic()
    lot = random.Random(seed)
    with tempfile.TemporaryDirectory() as directory:
        program = build_steady(Path(directory), "steady")
        with steady(program, "--mib", str(mib)) as target:
            condition = target.condition()
            usual_s = statistics.median(_fork(target.pid, action, None)[1] for _ in range(5))
            while row.killed < kills:
                row.runs += 1
                row.killed += _fork(target.pid, action, lot.uniform(0, usual_s))[0]
                counts = target.counts()
                for copy in {*same_program(program), *children(target.pid)} - {target.pid}:
                    wait_end(copy)
                stray = [child for child in children(target.pid) if state(child) != "Z"]
                standing = [
                    tid for tid in names(target.pid, "task") if state(int(tid)) in ("t", "T")
                ]
                assert not stray and not standing, (stray, standing)
                assert counts["errors"] == counts["sigchld"] == 0, counts
                assert target.condition() == condition
                row.zombies = max(row.zombies, len(children(target.pid)))
                if row.zombies >= MANY_ZOMBIES or row.killed == kills:
                    victim.snapshot(target.pid)
                    assert children(target.pid) == []
    row.seconds = round(time.monotonic() - begun, 1)
    return row


def _ended_within(child: int, seconds: float) -> bool:
    descriptor = os.pidfd_open(child)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def _fork(pid: int, action: str, after_s: float | None) -> tuple[bool, float]:
    """Does it in a child, killed ``after_s`` later: whether that came in time, and how long it
    took."""
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            victim.ACTIONS[action](pid)
        finally:
            os._exit(0)
    if after_s is not None:
        _ended_within(child, after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status), time.monotonic() - begun
