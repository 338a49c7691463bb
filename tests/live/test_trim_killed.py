"""SIGKILL of whoever applies a trim, at each of its calls in turn: the thread that was to trim goes
on as if nothing had been.

Strategy: as in test_snapshot_killed.py. strace kills on entering each request of ptrace, and at
moments of the waits and memory accesses between them; the last kills hit while malloc_trim runs,
which the thread then completes by itself. The target is a new one each time, and its waiter tells
at the end what it found.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.steady import Steady, build, children, steady
from live.trimmed import Waiter, waiting

ROOT = Path(__file__).parents[2]
KILLED = (128 + 9, -9)
OTHERS = {"wait4": (1, 2, 3, 5, 8, 13), "process_vm_writev": (1, 2), "nanosleep": (1, 2, 4)}
"""Calls between the requests, and which of them to kill at; a wait is repeated until something has
happened, so these are moments."""
EINTR = -4
RESULTS = {"read": 1, "futex": 0, "nanosleep": EINTR}
"""By kind of call: what it returns when its event ends it."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("targets"), "trimmed")


def apply(pid: int, tid: int, call: str, number: int = 0, log: str = os.devnull) -> int:
    """Runs an observer that is killed at its ``number``-th ``call``; its exit status."""
    command = ["strace", "-f", "-qqq", "-o", log, "-e", f"trace={call}"]
    if number:
        command += ["-e", f"inject={call}:signal=KILL:when={number}"]
    command += [sys.executable, str(ROOT / "tests/live/trimmer.py"), str(pid), str(tid)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}).returncode


def request_count(program: Path, log: Path) -> int:
    """How many requests an undisturbed observer makes."""
    with waiting(program, "read") as waiter:
        assert apply(waiter.pid, waiter.tid, "ptrace", log=str(log)) == 0
    count = sum(" ptrace(" in line for line in log.read_text().splitlines())
    assert count > 10
    return count


def assert_unharmed(waiter: Waiter, kind: str, moment: str) -> None:
    waiter.wait_for_call()
    assert waiter.condition() == waiter.before, moment
    found = waiter.end()
    assert found["result"] == RESULTS[kind], moment
    assert found["changed"] == 0, moment
    assert found["errno"] == 91, moment
    assert (found["usr1_blocked"], found["usr2_blocked"]) == (1, 0), moment


@pytest.mark.parametrize("kind", ["read", "nanosleep", "futex"])
def test_killed_at_any_request(program: Path, tmp_path: Path, kind: str) -> None:
    last = request_count(program, tmp_path / "calls")
    trimmed = []
    for number in range(1, last + 1):
        with waiting(program, kind, *(["--locked"] if number % 2 else [])) as waiter:
            pages = waiter.resident_pages()
            status = apply(waiter.pid, waiter.tid, "ptrace", number)
            # A request more or less (a stop in between) may let the last ones get through.
            assert status in KILLED or number > last - 2
            waiter.wait_for_call()
            trimmed.append(pages - waiter.resident_pages() >= waiter.free_pages)
            assert_unharmed(waiter, kind, f"request {number}")
    # Killed early, nothing had happened yet; killed late, the thread went through with it.
    assert not trimmed[0] and any(trimmed)


@pytest.mark.parametrize("call", OTHERS)
def test_killed_between_requests(program: Path, call: str) -> None:
    for number in OTHERS[call]:
        with waiting(program, "read", "--locked") as waiter:
            apply(waiter.pid, waiter.tid, call, number)
            assert_unharmed(waiter, "read", f"{call} {number}")


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Steady]:
    with steady(build(tmp_path, "steady")) as running:
        yield running


def test_killed_at_any_request_on_a_busy_process(
    busy: Steady, program: Path, tmp_path: Path
) -> None:
    """One process for all: what a killed observer leaves does not disturb the next one either."""
    condition = busy.condition()
    kinds = ["nanosleep", "poll", "futex", "read"]
    for number in range(1, request_count(program, tmp_path / "calls") + 1):
        apply(busy.pid, busy.threads[kinds[number % len(kinds)]], "ptrace", number)
        counts = busy.counts()
        assert counts["errors"] == counts["sigchld"] == 0, f"request {number}"
        assert busy.condition() == condition, f"request {number}"
        assert {name: count for name, count in counts["eintr"].items() if name != "epoll"} == {
            name: 0 for name in counts["eintr"] if name != "epoll"
        }


@pytest.mark.parametrize("happens", ["kill", "start_anew"])
def test_the_target_goes_at_any_request(program: Path, tmp_path: Path, happens: str) -> None:
    """strace stops the observer behind each of its requests; when it goes on, the target is dead,
    or another program."""
    log = tmp_path / "calls"
    last = request_count(program, log)
    for number in range(1, last):
        log.unlink()
        with waiting(program, "read") as waiter:
            observer = begin(waiter.pid, waiter.tid, number, log)
            stopped = wait_stopped(observer, log)
            getattr(waiter, happens)()
            os.kill(stopped, signal.SIGCONT)
            # With its last requests it lets the thread go, and need not notice any more.
            assert observer.wait() == 3 or (number >= last - 2 and observer.returncode == 0), number
            if happens == "start_anew":
                waiter.begin_anew()
                assert_unharmed(waiter, "read", f"request {number}")


def begin(pid: int, tid: int, number: int, log: Path) -> subprocess.Popen[bytes]:
    """An observer that strace will stop."""
    command = ["strace", "-f", "-qqq", "-o", str(log), "-e", "trace=ptrace"]
    command += ["-e", f"inject=ptrace:signal=STOP:when={number}"]
    command += [sys.executable, str(ROOT / "tests/live/trimmer.py"), str(pid), str(tid)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.DEVNULL
    )


def wait_stopped(strace: subprocess.Popen[bytes], log: Path) -> int:
    """Until its only child is stopped: the child's pid."""
    while not (log.exists() and "--- stopped by SIGSTOP ---" in log.read_text()):
        assert strace.poll() is None, "the observer ended without being stopped"
        os.sched_yield()
    [child] = children(strace.pid)
    return child
