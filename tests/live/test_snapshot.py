"""The snapshot leaves its target as it was, and is what it claims to be."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.steady import (
    Steady,
    build,
    children,
    names,
    same_program,
    state,
    steady,
    wait_end,
    wait_state,
)

from allocscope.act import borrow, leftovers
from allocscope.act.forecast import forecast_of
from allocscope.act.snapshot import CopyPlan, Snapshot, frozen
from allocscope.act.tracer import Tracer
from allocscope.errors import Unsafe

PLAIN = CopyPlan((), None, None)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("targets"), "steady")


@pytest.fixture(scope="module")
def target(program: Path) -> Iterator[Steady]:
    """Many threads, shared by the tests: each must leave it as it was."""
    with steady(program) as running:
        yield running


def soon() -> int:
    return time.monotonic_ns() + 20_000_000_000


def read_u64(pid: int, address: int) -> int:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return int(struct.unpack("Q", memory.read(8))[0])


def assert_untouched(target: Steady) -> None:
    """Every thread goes on, nothing was lost, nobody is left."""
    counts = target.counts()
    assert counts["errors"] == 0
    assert counts["sigchld"] == 0
    assert children(target.pid) == []


def use_thread(monkeypatch: pytest.MonkeyPatch, tid: int) -> None:
    monkeypatch.setattr(borrow, "choose", lambda pid, possible: [tid])


KINDS = ["main", "nanosleep", "poll", "epoll", "futex", "read", "malloc", "spin"]


@pytest.mark.parametrize("kind", KINDS)
def test_any_thread_may_be_used(target: Steady, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    use_thread(monkeypatch, target.threads[kind])
    before, condition = target.counts(), target.condition()
    for _ in range(5):
        with frozen(target.pid, deadline_ns=soon()) as snapshot, snapshot.disposable(PLAIN):
            assert snapshot.tid == target.threads[kind]
    assert target.condition() == condition
    assert_untouched(target)
    # A stop is a reason for epoll_wait to return EINTR, for the other waits it is none.
    after = target.counts()
    for name in after["eintr"]:
        assert after["eintr"][name] == before["eintr"][name] or name == kind == "epoll"


def test_a_thread_that_would_notice_is_not_chosen(target: Steady) -> None:
    eintr = target.counts()["eintr"]
    for _ in range(5):
        with frozen(target.pid, deadline_ns=soon()):
            pass
    assert target.counts()["eintr"] == eintr


def test_single_thread(program: Path) -> None:
    with steady(program, "--single") as target:
        condition = target.condition()
        for _ in range(10):
            with frozen(target.pid, deadline_ns=soon()) as snapshot, snapshot.disposable(PLAIN):
                pass
        assert target.condition() == condition
        assert_untouched(target)
        assert set(target.counts()["eintr"].values()) == {0}


def test_frozen_while_the_target_goes_on(target: Steady) -> None:
    with frozen(target.pid, deadline_ns=soon()) as snapshot:
        first = read_u64(snapshot.pid, target.beat_address)
        target.counts()
        assert read_u64(snapshot.pid, target.beat_address) == first
        assert read_u64(target.pid, target.beat_address) > first
        assert Path(f"/proc/{snapshot.pid}/maps").read_text()
        assert Path(f"/proc/{snapshot.pid}/oom_score_adj").read_text() == "1000\n"
        assert names(snapshot.pid, "fd") == []
        assert os.getpgid(snapshot.pid) != os.getpgid(target.pid)
    assert snapshot.pause_ns > 0
    assert snapshot.reap_pause_ns > 0
    assert snapshot.zombie is None
    assert state(snapshot.pid) == ""
    assert_untouched(target)


def test_the_copy_is_a_stopped_process_of_its_own(target: Steady) -> None:
    with frozen(target.pid, deadline_ns=soon()) as snapshot:
        with snapshot.disposable(PLAIN) as copy:
            status = Path(f"/proc/{copy.pid}/status").read_text()
            assert "State:\tT" in status
            assert "TracerPid:\t0" in status
            assert names(copy.pid, "fd") == ["2"]
            assert str(Path(copy.output_path).readlink()) == "/memfd:allocscope (deleted)"
            assert Path(f"/proc/{copy.pid}/oom_score_adj").read_text() == "1000\n"
            limits = Path(f"/proc/{copy.pid}/limits").read_text()
            assert "Max core file size        1                    1" in limits
            timers = Path(f"/proc/{copy.pid}/timers").read_text()
            assert f"signal: {signal.SIGKILL.value}/" in timers
            assert os.getpgid(copy.pid) == copy.pid
            assert children(target.pid) == [snapshot.pid]
        assert state(copy.pid) == ""
        with snapshot.disposable(PLAIN) as second:
            assert state(second.pid) == "T"
    assert_untouched(target)


def test_a_copy_that_is_let_run_exits(target: Steady) -> None:
    with (
        frozen(target.pid, deadline_ns=soon()) as snapshot,
        snapshot.disposable(PLAIN) as copy,
    ):
        os.kill(copy.pid, signal.SIGCONT)
        wait_end(copy.pid)
    assert_untouched(target)


def test_locks_are_opened_in_the_copy_only(target: Steady) -> None:
    busy, free = target.beat_address, target.beat_address + 4  # a 64-bit count below 2^32
    with frozen(target.pid, deadline_ns=soon()) as snapshot:
        beat = read_u64(snapshot.pid, busy)
        assert beat
        with snapshot.disposable(CopyPlan((busy, free), None, None)) as copy:
            assert copy.locks_held == (busy,)
            assert not copy.stderr_locked
            assert read_u64(copy.pid, busy) == 0
        assert read_u64(snapshot.pid, busy) == beat
    assert_untouched(target)


def test_stderr_is_usable_in_the_copy(program: Path) -> None:
    """Offsets: struct _IO_FILE of libio/bits/types/struct_FILE.h."""

    def fields(pid: int) -> tuple[int, int, list[int], int]:
        flags, descriptor = (read_u64(pid, file + at) & 0xFFFFFFFF for at in (0, 0x70))
        pointers = [read_u64(pid, file + at) for at in range(8, 0x60, 8)]
        lock = read_u64(pid, read_u64(pid, file + 0x88)) & 0xFFFFFFFF
        return flags, descriptor, pointers, lock

    with steady(program, "--stderr-held") as target:
        variable, file = target.stderr
        with frozen(target.pid, deadline_ns=soon()) as snapshot:
            before = fields(snapshot.pid)
            assert any(before[2])
            assert before[3]
            with snapshot.disposable(CopyPlan((), variable, file)) as copy:
                assert copy.stderr_locked
                assert fields(copy.pid) == (0xFBAD2087, 2, [0] * 11, 0)
                assert read_u64(copy.pid, variable) == file
            assert fields(snapshot.pid) == fields(target.pid) == before
        assert_untouched(target)


def test_the_target_may_end_meanwhile(program: Path) -> None:
    with steady(program) as target, frozen(target.pid, deadline_ns=soon()) as snapshot:
        target.end()
        assert read_u64(snapshot.pid, target.beat_address)
    wait_end(snapshot.pid)
    assert snapshot.zombie is None


def test_the_target_may_call_exec_meanwhile(program: Path) -> None:
    with steady(program) as target:
        with frozen(target.pid, deadline_ns=soon()) as snapshot:
            target.start_anew()
            assert read_u64(snapshot.pid, target.beat_address)
        assert snapshot.zombie is None
        assert children(target.pid) == []
        counts = target.counts()
        assert counts["errors"] == 0
        # The kernel announces the children from before an execve by SIGCHLD, whatever they were
        # made with (do_notify_parent). Nothing can be done about that one.
        assert counts["sigchld"] <= 1


def test_static_program(tmp_path: Path) -> None:
    with steady(build(tmp_path, "steady", "-static")) as target:
        with frozen(target.pid, deadline_ns=soon()) as snapshot, snapshot.disposable(PLAIN):
            assert read_u64(snapshot.pid, target.beat_address)
        assert_untouched(target)


def test_a_stopped_target_stays_stopped(program: Path) -> None:
    with steady(program) as target:
        os.kill(target.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, target.pid, os.WSTOPPED | os.WNOWAIT)
        with frozen(target.pid, deadline_ns=soon()):
            traced = {lines["TracerPid"] for lines in target.condition().threads.values()}
            assert traced == {"0"}
        for tid in target.threads.values():
            wait_state(tid, "T")
        os.kill(target.pid, signal.SIGCONT)
        assert_untouched(target)


def test_subreaper(program: Path) -> None:
    """Whoever collects orphans near the target must not meet any of ours."""
    with steady(program, "--subreaper") as target:
        for _ in range(5):
            with frozen(target.pid, deadline_ns=soon()) as snapshot, snapshot.disposable(PLAIN):
                pass
        assert_untouched(target)


def test_first_process_of_a_pid_namespace(program: Path) -> None:
    wrapper = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    if os.geteuid():
        pytest.skip("needs CAP_SYS_ADMIN to make a pid namespace")
    with steady(program, wrapper=wrapper) as target:
        assert target.threads["main"] == 1
        for _ in range(3):
            with frozen(target.pid, deadline_ns=soon()) as snapshot, snapshot.disposable(PLAIN):
                assert state(snapshot.pid) == "t"
        assert_untouched(target)


def test_the_pause_is_foretold_and_told(program: Path) -> None:
    """The forecast is of the right size, and the pause is told."""
    with steady(program, "--single", "--mib", "256") as target:
        expected = forecast_of(target.pid)
        with frozen(target.pid, deadline_ns=soon(), forecast=expected) as snapshot:
            assert snapshot.forecast is expected
        assert 2_000_000 < expected.pause_ns < 20_000_000
        assert snapshot.pause_ns > 0  # how long it was is for ./dev bench, on a machine at rest


@pytest.mark.parametrize("milliseconds", [0, 0.3, 1, 2, 4, 8])
def test_a_deadline_may_pass_at_any_point(target: Steady, milliseconds: float) -> None:
    condition = target.condition()
    with contextlib.suppress(Unsafe):
        deadline = time.monotonic_ns() + int(milliseconds * 1e6)
        with frozen(target.pid, deadline_ns=deadline):
            pass
    for child in children(target.pid):
        wait_end(child)
    with frozen(target.pid, deadline_ns=soon()):
        pass
    assert_untouched(target)  # every thread goes round again: one that was let go has found its way
    assert target.condition() == condition


def test_an_interrupted_start_leaves_nothing(
    target: Steady, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the tracer thread is at work: the way out waits its turn."""
    run = Tracer.run
    calls = []

    def interrupted(tracer: Tracer, work: object) -> object:
        calls.append(work)
        if len(calls) == 1:
            tracer._pool.submit(work)  # type: ignore[arg-type]
            raise KeyboardInterrupt
        return run(tracer, work)  # type: ignore[arg-type]

    monkeypatch.setattr(Tracer, "run", interrupted)
    with pytest.raises(KeyboardInterrupt), frozen(target.pid, deadline_ns=soon()):
        pass
    assert len(calls) == 2
    assert same_program(program) == {target.pid}
    assert_untouched(target)


@pytest.fixture
def observer(target: Steady) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """A process that holds a snapshot and a copy of it, and their pids."""
    command = [sys.executable, str(ROOT / "tests/live/observer.py"), str(target.pid), "hold"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout
        snapshot, copy = map(int, process.stdout.readline().split())
        yield process, snapshot, copy
        process.kill()


def test_ctrl_c(target: Steady, observer: tuple[subprocess.Popen[str], int, int]) -> None:
    process, snapshot, copy = observer
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    assert state(snapshot) == state(copy) == ""
    assert_untouched(target)


def test_copies_die_with_a_killed_observer(
    target: Steady, observer: tuple[subprocess.Popen[str], int, int]
) -> None:
    process, snapshot, copy = observer
    process.kill()
    wait_end(copy)
    wait_end(snapshot)
    target.counts()
    # The target does not know the child that it has; the next snapshot does, and collects it.
    assert children(target.pid) == [snapshot]
    assert [left.pid for left in leftovers.find(target.pid)] == [snapshot]
    with frozen(target.pid, deadline_ns=soon()) as mine:
        assert children(target.pid) == [mine.pid]
    assert_untouched(target)


def test_the_copy_dies_with_the_snapshot(
    target: Steady, observer: tuple[subprocess.Popen[str], int, int]
) -> None:
    _, snapshot, copy = observer
    os.kill(snapshot, signal.SIGKILL)
    wait_end(copy)


def test_lifetime(target: Steady) -> None:
    with frozen(target.pid, deadline_ns=soon(), lifetime_s=1) as snapshot:
        wait_end(snapshot.pid)
    assert_untouched(target)


def test_children_of_the_program_itself_are_no_leftovers(target: Steady) -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert state(ended.pid) == "Z"
    assert leftovers.find(os.getpid()) == []
    ended.wait()


def test_snapshot_describes_itself(target: Steady) -> None:
    with frozen(target.pid, deadline_ns=soon()) as snapshot:
        assert isinstance(snapshot, Snapshot)
        assert snapshot.target_pid == target.pid
        assert dataclasses.is_dataclass(snapshot.forecast)
