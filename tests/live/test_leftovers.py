"""What a killed run leaves below a target: real zombies, made by SIGKILL, found, told and taken
away.

A copy that lives without a tracer does not come from any kill that we know how to make, so a
program here makes a child with all the marks of one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.cli import ROOT, command
from live.steady import Steady, build, children, state, steady, wait_end, wait_state
from live.targets import wait_until
from live.test_contract import answer

from allocscope.act import leftovers
from allocscope.app import doctor_leftovers
from allocscope.lab.child import child


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("targets"), "steady")


@pytest.fixture
def target(program: Path) -> Iterator[Steady]:
    with steady(program, "--mib", "16") as running:
        yield running


def observer(pid: int) -> subprocess.Popen[str]:
    """A run that holds a copy of ``pid``, and a copy of the copy."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tests/live/observer.py"), str(pid), "hold"],
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def leave_one(target: Steady) -> int:
    """The number of a copy whose run was killed."""
    with observer(target.pid) as run:
        assert run.stdout
        copy, twin = map(int, run.stdout.readline().split())
        run.kill()
    for pid in (copy, twin):
        wait_end(pid)
    wait_until(lambda: state(copy) == "Z" and state(twin) in ("", "Z"))
    return copy


def test_what_a_killed_run_left_is_told_and_taken_away(target: Steady) -> None:
    before = target.condition()
    left = leave_one(target)
    assert children(target.pid) == [left]
    checks = {c["key"]: c for c in answer("doctor", str(target.pid))["data"]["checks"]}
    told = checks["leftovers"]
    assert (told["status"], str(left) in told["message"]) == ("degraded", True)
    assert told["cure"] == f"allocscope doctor {target.pid} --clean"
    assert children(target.pid) == [left]  # telling changes nothing

    [done] = answer("doctor", str(target.pid), "--clean")["data"]["checks"]
    assert (done["status"], str(left) in done["message"]) == ("ok", True)
    assert children(target.pid) == []
    assert target.condition() == before
    counts = target.counts()
    assert counts["errors"] == counts["sigchld"] == 0

    [again] = answer("doctor", str(target.pid), "--clean")["data"]["checks"]
    assert (again["status"], again["cure"]) == ("ok", "")


def test_a_run_that_is_at_work_is_left_alone(target: Steady) -> None:
    with observer(target.pid) as run:
        assert run.stdout and run.stdin
        copy = int(run.stdout.readline().split()[0])
        [done] = answer("doctor", str(target.pid), "--clean")["data"]["checks"]
        assert done["status"] == "ok"
        assert "at work" in done["message"]
        assert state(copy) == "t"
        run.stdin.close()
        assert run.wait() == 0
    assert children(target.pid) == []


def test_the_targets_own_zombies_are_its_own(tmp_path: Path) -> None:
    program = build(tmp_path, "orphans")
    with child([str(program), "own"]) as started:
        own = int(started.line(60))
        wait_state(own, "Z")
        [done] = doctor_leftovers.clean(started.pid).data.checks
        assert done.status == "ok"
        assert state(own) == "Z"


def test_a_living_copy_that_nobody_traces_is_ended(tmp_path: Path) -> None:
    program = build(tmp_path, "orphans")
    with child([str(program), "copy"]) as started:
        copy = int(started.line(60))
        wait_state(copy, "S")
        assert leftovers.abandoned(started.pid) == [copy]
        told = doctor_leftovers.check(started.pid)
        assert (told.status, str(copy) in told.message) == ("degraded", True)
        [done] = doctor_leftovers.clean(started.pid).data.checks
        assert (done.status, str(copy) in done.message) == ("ok", True)
        assert children(started.pid) == []
    assert started.process.returncode == 0


@pytest.mark.parametrize("kind", ["signal", "handler", "mask"])
def test_a_child_that_lacks_a_mark_is_nobodys_copy(tmp_path: Path, kind: str) -> None:
    program = build(tmp_path, "orphans")
    with child([str(program), kind]) as started:
        other = int(started.line(60))
        wait_state(other, "S")
        assert doctor_leftovers.check(started.pid).status == "ok"
        doctor_leftovers.clean(started.pid)
        assert state(other) == "S"


def test_where_nobody_can_collect_the_reason_is_given(tmp_path: Path) -> None:
    """Under a seccomp filter no thread may be borrowed."""
    program = build(tmp_path, "orphans")
    with child([str(program), "seccomp"]) as started:
        copy = int(started.line(60))
        wait_state(copy, "Z")
        [found] = doctor_leftovers.clean(started.pid).data.checks
        assert found.status == "degraded"
        assert "seccomp" in found.message and str(copy) in found.message
        assert found.cure
        assert children(started.pid) == [copy]


def test_wrong_usage() -> None:
    assert command("doctor", "--clean").returncode == 2
    assert command("doctor", "1", "--clean", "--layout").returncode == 2
