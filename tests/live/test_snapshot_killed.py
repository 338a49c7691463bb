"""SIGKILL of the observer at its ptrace calls, one after the other: the target must not be worse
off.

Strategy: one observer runs to its end and shows which calls it makes (all are made by one thread).
Then strace kills one observer on entering each call that concerns a thread of the target, and one
at every few of those that concern the copies only. Each time the target is inspected.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from live.steady import Steady, build, children, same_program, state, steady, wait_end

from allocscope.act import leftovers, symbols
from allocscope.app.target import look

ROOT = Path(__file__).parents[2]
KILLED = 128 + 9
EVERY = 7
# Waits are repeated until something happened, so these numbers are moments, among them such in
# which the target is making its copy.
WAITS = (1, 2, 3, 5, 8, 13, 21, 34)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("targets"), "steady")


@pytest.fixture(params=["threads", "single"])
def target(request: pytest.FixtureRequest, program: Path) -> Iterator[Steady]:
    options = ["--single"] if request.param == "single" else []
    with steady(program, *options, "--mib", "64") as running:
        yield running


def observe(
    pid: int, call: str, number: int = 0, log: str = os.devnull, wish: Sequence[str] = ()
) -> int:
    """Runs an observer that is killed at its ``number``-th ``call``; its exit status. ``wish``:
    what it is to do besides."""
    if not shutil.which("strace"):
        pytest.fail("strace is not installed: apt install strace")
    command = ["strace", "-f", "-qqq", "-o", log, "-e", f"trace={call}"]
    if number:
        command += ["-e", f"inject={call}:signal=KILL:when={number}"]
    command += [sys.executable, str(ROOT / "tests/live/observer.py"), str(pid), *wish]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode


def moments(pid: int, log: Path) -> list[int]:
    """Numbers of the calls to be killed at, as an undisturbed observer makes them."""
    assert observe(pid, "ptrace", log=str(log)) == 0
    lines = [line for line in log.read_text().splitlines() if " ptrace(" in line]
    on_target = [
        number for number, line in enumerate(lines, 1) if f", {pid}," in line or f", {pid})" in line
    ]
    assert len(on_target) > 30
    return sorted({*on_target, *range(1, len(lines), EVERY)})


def assert_unharmed(target: Steady, program: Path, condition: object, moment: str) -> None:
    counts = target.counts()  # every thread went round twice more: none is in its clone any more
    for copy in {*same_program(program), *children(target.pid)} - {target.pid}:
        wait_end(copy)
    assert counts["errors"] == 0, moment
    assert counts["sigchld"] == 0, moment
    assert target.condition() == condition, moment
    zombies = children(target.pid)
    assert [state(child) for child in zombies] in ([], ["Z"]), moment
    assert [left.pid for left in leftovers.find(target.pid)] == zombies, moment


def test_killed_at_any_call(target: Steady, program: Path, tmp_path: Path) -> None:
    numbers = moments(target.pid, tmp_path / "calls")
    condition = target.condition()
    for number in numbers:
        # A call more or less (a restartable sequence was met) may let the last ones get through.
        assert observe(target.pid, "ptrace", number) in (KILLED, -9) or number == numbers[-1]
        assert_unharmed(target, program, condition, f"call {number}")
    assert observe(target.pid, "ptrace") == 0
    assert children(target.pid) == []  # it has collected what the others left


@pytest.mark.parametrize("number", WAITS)
def test_killed_while_waiting(program: Path, number: int) -> None:
    with steady(program, "--mib", "64") as target:
        condition = target.condition()
        observe(target.pid, "wait4", number)
        assert_unharmed(target, program, condition, f"wait {number}")


def test_killed_while_a_function_runs_in_the_copy(
    target: Steady, program: Path, tmp_path: Path
) -> None:
    """A function that takes no lock: one that a thread of the target holds stays held in a copy."""
    image = look(target.pid).images[0]
    function = symbols.resolve(target.pid, image, ("getppid",))["getppid"]
    wish = ("call", hex(function))
    log = tmp_path / "calls"
    condition = target.condition()
    assert observe(target.pid, "ptrace", log=str(log), wish=wish) == 0
    lines = [line for line in log.read_text().splitlines() if " ptrace(" in line]
    start = max(number for number, line in enumerate(lines, 1) if "PTRACE_SETREGSET" in line)
    begun = [number for number, line in enumerate(lines, 1) if "PTRACE_CONT" in line]
    for number in sorted({*begun, *range(start - 3, len(lines))}):
        assert observe(target.pid, "ptrace", number, wish=wish) in (KILLED, -9)
        assert_unharmed(target, program, condition, f"call {number}")
    assert observe(target.pid, "ptrace", wish=wish) == 0
    assert children(target.pid) == []
