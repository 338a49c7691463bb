"""Asking glibc in the live process: what it says, what is left behind (nothing), when it is
refused.

Each target tells itself whether it came to harm: it must end by itself, its memory and errno as
they were, with nothing on its stdout and stderr but its own two lines.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from live import ask_targets
from live.ask_targets import Target

from allocscope.act.guard import Guard
from allocscope.app.ask import ask
from allocscope.errors import Unsafe
from allocscope.model.glibc_says import Answer
from allocscope.model.report import Report
from allocscope.parse import malloc_info, malloc_stats
from allocscope.proc import procfs

PAUSE_NS = 1_000_000_000
SHORT_S, LONG_S = 1.0, 30.0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ask_targets.build(tmp_path_factory.mktemp("target"))


def live(target: Target, deadline_s: float = LONG_S) -> Report[Answer]:
    return ask(target.pid, what="both", live=True, max_pause_ns=PAUSE_NS, deadline_s=deadline_s)


def in_copy(target: Target) -> Report[Answer]:
    return ask(target.pid, what="both", live=False, max_pause_ns=PAUSE_NS, deadline_s=LONG_S)


def descriptors(target: Target) -> dict[str, str]:
    directory = Path(f"/proc/{target.pid}/fd")
    return {path.name: str(path.readlink()) for path in directory.iterdir()}


def traces(target: Target) -> tuple[object, ...]:
    """Everything that a call could leave behind in a process that only waits."""
    status = procfs.status(target.pid)
    assert status.state in "RS"
    assert status.tracer_pid == 0
    threads = [(task.tid, task.start_ticks) for task in procfs.tasks(target.pid)]
    return descriptors(target), procfs.mappings(target.pid), threads


def stats_of(answer: Answer) -> tuple[int, int]:
    """The number of arenas by each of the two functions; both must be whole."""
    assert answer.malloc_info_xml is not None and answer.malloc_stats_text is not None
    info = malloc_info.parse(answer.malloc_info_xml)
    stats = malloc_stats.parse(answer.malloc_stats_text)
    for heap, arena in zip(info.heaps, stats.arenas, strict=True):
        assert heap.system_bytes == arena.system_bytes
    return len(info.heaps), len(stats.arenas)


@pytest.mark.parametrize("how", [live, in_copy])
def test_all_arenas_answer_and_nothing_is_left(
    program: Path, how: Callable[[Target], Report[Answer]]
) -> None:
    with ask_targets.started(program, "idle", "5") as target:
        before = traces(target)
        report = how(target)
        assert stats_of(report.data) == (6, 6)
        assert report.data.pause_ns > 0
        assert report.data.locks_held == ()
        assert report.data.source == report.method.source
        assert traces(target) == before
        target.finish()


def test_live_interrupts_calls_and_a_copy_does_not(program: Path) -> None:
    """The thread in epoll_wait counts its EINTRs: so a test that a reading causes none can fail."""
    with ask_targets.started(program, "idle", "3") as target:
        in_copy(target)
        live(target)
        assert target.finish()["interruptions"] >= 1
    with ask_targets.started(program, "idle", "3") as target:
        in_copy(target)
        assert target.finish()["interruptions"] == 0


def test_only_one_is_asked(program: Path) -> None:
    with ask_targets.started(program, "idle", "1") as target:
        one = ask(target.pid, what="malloc_info", live=True, max_pause_ns=0, deadline_s=LONG_S)
        assert one.data.malloc_info_xml and one.data.malloc_stats_text is None
        other = ask(target.pid, what="malloc_stats", live=True, max_pause_ns=0, deadline_s=LONG_S)
        assert other.data.malloc_stats_text and other.data.malloc_info_xml is None
        target.finish()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("arena", "the lock of arena 0 is held"),
        ("stderr", "the lock of the stderr stream is held"),
        ("inside", "runs a signal handler on top of malloc's code"),
        ("altstack", "runs a signal handler on top of malloc's code"),
    ],
)
def test_live_is_refused_unharmed_where_a_copy_answers(
    program: Path, state: str, reason: str
) -> None:
    with ask_targets.started(program, state) as target:
        before = traces(target)
        with pytest.raises(Unsafe, match=reason) as refusal:
            live(target, SHORT_S)
        assert refusal.value.exit_code == 7
        assert "without --live" in refusal.value.hint
        assert traces(target) == before
        stats_of(in_copy(target).data)
        target.finish()


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("vfork", "waits in vfork"),
        ("seccomp", "has a seccomp filter"),
        ("masked", "blocks or ignores SIGSEGV"),
    ],
)
def test_live_is_refused_where_a_stop_or_a_call_would_harm(
    program: Path, state: str, reason: str
) -> None:
    with ask_targets.started(program, state) as target:
        with pytest.raises(Unsafe, match=reason):
            live(target, SHORT_S)
        assert procfs.status(target.pid).tracer_pid == 0
        target.finish()


def test_a_stop_that_does_not_come_is_given_up(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread enters vfork just after the first look, and its child does not go on: gdb stops the
    other threads and waits. Ending gdb lets them go."""
    monkeypatch.setattr(Guard, "reasons", lambda self, stopped: ())
    with ask_targets.started(program, "vfork") as target:
        before = traces(target)
        with pytest.raises(Unsafe, match="could not stop all threads") as refusal:
            live(target)
        assert "without --live" in refusal.value.hint
        assert traces(target) == before
        target.finish()


def test_signal_handlers_wait_until_the_calls_are_made(program: Path) -> None:
    """The handler uses malloc, in a process without locks: on top of malloc_info it would crash or
    change what is being counted."""
    with ask_targets.started(program, "alarm") as target:
        for _ in range(5):
            try:
                stats_of(live(target).data)
            except Unsafe as refused:
                assert "malloc's code" in refused.message
        assert target.finish()["rounds"] > 0


def test_a_stopped_process_stays_stopped(program: Path) -> None:
    with ask_targets.started(program, "idle", "1") as target:
        os.kill(target.pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(target.pid, os.WUNTRACED)[1])
        with pytest.raises(Unsafe, match=r"is stopped \(SIGSTOP\)"):
            live(target)
        assert procfs.status(target.pid).state == "T"
        os.kill(target.pid, signal.SIGCONT)
        target.finish()


def test_allocscope_does_not_stop_itself() -> None:
    with pytest.raises(Unsafe, match="cannot stop itself"):
        ask(os.getpid(), what="both", live=True, max_pause_ns=PAUSE_NS, deadline_s=SHORT_S)


def test_the_locks_of_the_moment_are_named(program: Path) -> None:
    with ask_targets.started(program, "arena") as target:
        assert "arena 0" in in_copy(target).data.locks_held
        target.finish()
    with ask_targets.started(program, "stderr") as target:
        assert in_copy(target).data.locks_held == ("stderr",)
        target.finish()


def test_attempts_in_vain_end_with_the_pause_that_is_allowed(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guard that finds a reason each time that all threads stand still."""
    looks: list[bool] = []

    def reasons(self: Guard, stopped: bool) -> tuple[str, ...]:
        looks.append(stopped)
        return ("thread 1 is never where it should be",) if stopped else ()

    monkeypatch.setattr(Guard, "reasons", reasons)
    with ask_targets.started(program, "idle", "1") as target:
        with pytest.raises(Unsafe, match=r"never where it should be \(attempts stopped it for"):
            ask(target.pid, what="both", live=True, max_pause_ns=1, deadline_s=LONG_S)
        assert looks == [False, True]
        target.finish()


def test_a_busy_process_is_asked_or_left_alone(program: Path) -> None:
    with ask_targets.started(program, "storm", "3") as target:
        try:
            stats_of(live(target).data)
        except Unsafe as refused:
            assert "malloc's code" in refused.message or "lock of arena" in refused.message
        assert procfs.status(target.pid).tracer_pid == 0
        assert stats_of(in_copy(target).data)[0] > 1
        assert target.finish()["rounds"] > 0
