"""malloc_trim by the live process: the pages are gone, and the thread that did it never knew."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import ask_targets
from live.steady import Steady, build, refused, steady
from live.trimmed import RESTART_SYSCALL, Waiter, trim, waiting

from allocscope.act import trim_thread
from allocscope.act.trim_thread import Candidate
from allocscope.errors import AllocscopeError, NoSuchProcess, Unsafe

SHORT_S = 0.3
EINTR = -4
CALLS = {"read": 1, "poll": 1, "ppoll": 1, "nanosleep": EINTR, "futex": 0, "accept": None,
         "recv": 1, "wait": None, "pause": EINTR}  # fmt: skip
"""Calls that the kernel restarts, and their results by the event that ends them; None: some
positive number."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("targets"), "trimmed")


@pytest.fixture(scope="module")
def refused_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("targets"), "refused")


@pytest.fixture(scope="module")
def ask_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ask_targets.build(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steady]:
    with steady(build(tmp_path_factory.mktemp("targets"), "steady")) as running:
        yield running


def use_thread(monkeypatch: pytest.MonkeyPatch, tid: int) -> None:
    choose = trim_thread.choose

    def only_this(*arguments: object) -> tuple[list[Candidate], dict[int, str]]:
        found, reasons = choose(*arguments)  # type: ignore[arg-type]
        return [candidate for candidate in found if candidate.tid == tid], reasons

    monkeypatch.setattr(trim_thread, "choose", only_this)


def assert_found_all_as_it_was(waiter: Waiter, result: int | None) -> None:
    assert waiter.condition() == waiter.before
    found = waiter.end()
    assert found["changed"] == 0
    assert found["errno"] == 91
    assert (found["usr1_blocked"], found["usr2_blocked"]) == (1, 0)
    assert found["result"] == result if result is not None else found["result"] > 0


@pytest.mark.parametrize("kind", CALLS)
def test_a_call_that_is_restarted(
    program: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Registers, vectors, FP control words, the red zone, errno, mask and alternate stack are
    compared by the waiter, which does not leave its call before the event that ends it."""
    with waiting(program, kind) as waiter:
        use_thread(monkeypatch, waiter.tid)
        before = waiter.resident_pages()
        done = trim(waiter.pid)
        assert done.tid == waiter.tid
        assert done.returned == 1
        assert done.duration_ns > 0 and done.pause_ns > 0
        assert before - waiter.resident_pages() >= waiter.free_pages
        waiter.wait_for_call()
        trim(waiter.pid)  # once more, in what the kernel calls a restarted call by now
        waiter.wait_for_call()
        assert_found_all_as_it_was(waiter, CALLS[kind])


@pytest.mark.parametrize("kind", ["nanosleep", "poll"])
def test_a_wait_is_not_longer_for_it(
    program: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """restart_syscall goes on with the time that was left; the call itself would begin anew."""
    with waiting(program, kind) as waiter:
        use_thread(monkeypatch, waiter.tid)
        trim(waiter.pid)
        assert waiter.wait_for_call() == RESTART_SYSCALL


@pytest.mark.parametrize("kind", ["epoll", "sigtimedwait"])
def test_a_call_that_notices_every_stop(
    program: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with waiting(program, kind) as waiter:
        assert trim(waiter.pid).tid != waiter.tid  # unless there is no other
        waiter.wait_for_call()
        use_thread(monkeypatch, waiter.tid)
        assert trim(waiter.pid).tid == waiter.tid
        found = waiter._line()  # the wait is over
        assert (found["result"], found["errno"], found["changed"]) == (EINTR, 91, 0)


def test_errno_that_malloc_trim_sets(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In mlocked memory each madvise fails with EINVAL."""
    with waiting(program, "read", "--locked") as waiter:
        use_thread(monkeypatch, waiter.tid)
        before = waiter.resident_pages()
        trim(waiter.pid)
        assert waiter.resident_pages() == before
        assert_found_all_as_it_was(waiter, 1)


def test_pad(tmp_path: Path) -> None:
    """malloc_trim(pad) leaves pad bytes at the top of the main heap."""
    source = tmp_path / "top.c"
    source.write_text(
        "#include <malloc.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
        "#include <unistd.h>\n"
        "int main(void)\n{\n"
        "    char byte, *blocks[160];\n"
        "    mallopt(M_TRIM_THRESHOLD, 1 << 30);\n"
        "    for (int i = 0; i < 160; i++) blocks[i] = memset(malloc(65520), 1, 65520);\n"
        "    for (int i = 0; i < 160; i++) free(blocks[i]);\n"
        '    puts("ready");\n    fflush(stdout);\n'
        "    return read(0, &byte, 1) < 0;\n}\n"
    )
    subprocess.run(["gcc", str(source), "-o", str(tmp_path / "top")], check=True)
    with subprocess.Popen(
        [tmp_path / "top"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        process.stdout.readline()
        trim(process.pid, pad_bytes=4 << 20)
        assert 4 << 20 <= _heap_bytes(process.pid) < 5 << 20
        trim(process.pid)
        assert _heap_bytes(process.pid) < 1 << 20
        assert process.stdin
        process.stdin.close()
        assert process.wait() == 0


def _heap_bytes(pid: int) -> int:
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    start, end = next(line for line in maps if line.endswith("[heap]")).split()[0].split("-")
    return int(end, 16) - int(start, 16)


KINDS = ["main", "nanosleep", "poll", "epoll", "futex", "read"]


@pytest.mark.parametrize("kind", KINDS)
def test_threads_of_a_busy_process(
    target: Steady, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    use_thread(monkeypatch, target.threads[kind])
    before, condition = target.counts(), target.condition()
    for _ in range(5):
        assert trim(target.pid).tid == target.threads[kind]
    after = target.counts()
    assert target.condition() == condition
    assert after["errors"] == after["sigchld"] == 0
    for name in after["eintr"]:
        assert after["eintr"][name] == before["eintr"][name] or name == kind == "epoll"


@pytest.mark.parametrize("kind", ["malloc", "spin"])
def test_a_thread_that_works_is_left_alone(
    target: Steady, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    use_thread(monkeypatch, target.threads[kind])
    condition = target.condition()
    with pytest.raises(Unsafe, match="could be made to call malloc_trim"):
        trim(target.pid, SHORT_S)
    assert target.condition() == condition
    assert target.counts()["errors"] == 0


def refusal(pid: int, deadline_s: float = SHORT_S) -> AllocscopeError:
    with pytest.raises(AllocscopeError) as caught:
        trim(pid, deadline_s)
    return caught.value


@pytest.mark.parametrize(
    ("kind", "word"),
    [("seccomp", "seccomp filter"), ("vfork", "vfork child"), ("dispatch", "its own system calls")],
)
def test_unsafe_processes(refused_program: Path, kind: str, word: str) -> None:
    with refused(refused_program, kind) as pid:
        error = refusal(pid)
        assert (error.exit_code, word in error.message) == (7, True), error.message
        assert error.hint


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ("arena", "for the lock of an arena to be free"),
        ("inside", "runs a signal handler"),
        ("altstack", "runs a signal handler"),
        ("vfork", "waits for a vfork child"),
    ],
)
def test_states_in_which_nobody_is_asked(ask_program: Path, state: str, word: str) -> None:
    """The target says at its end whether anything in it was harmed."""
    with ask_targets.started(ask_program, state) as asked:
        error = refusal(asked.pid)
        assert (error.exit_code, word in error.message) == (7, True), error.message
        asked.finish()


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("coroutine", "stands on no ordinary stack"),
        ("blocked", "has none of SIGURG"),
        ("handler", "runs a signal handler"),
    ],
)
def test_threads_that_are_not_fit(
    program: Path, monkeypatch: pytest.MonkeyPatch, kind: str, word: str
) -> None:
    with waiting(program, kind) as waiter:
        use_thread(monkeypatch, waiter.tid)
        error = refusal(waiter.pid)
        assert word in error.message
        assert waiter.condition() == waiter.before
        assert waiter.end()["changed"] == 0


def test_a_traced_process(program: Path) -> None:
    with (
        waiting(program, "read") as waiter,
        subprocess.Popen(["strace", "-qq", "-o", os.devnull, "-p", str(waiter.pid)]) as strace,
    ):
        while waiter._lines(str(waiter.pid))["TracerPid"] == "0":
            assert strace.poll() is None
            os.sched_yield()
        error = refusal(waiter.pid)
        strace.terminate()
    assert (error.exit_code, "already traced" in error.message) == (7, True)


def test_a_stopped_process(program: Path) -> None:
    with waiting(program, "read") as waiter:
        os.kill(waiter.pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(waiter.pid, os.WUNTRACED)[1])
        error = refusal(waiter.pid)
        assert (error.exit_code, "is stopped" in error.message) == (7, True)
        os.kill(waiter.pid, signal.SIGCONT)
        assert_found_all_as_it_was(waiter, 1)


def test_itself() -> None:
    assert "cannot stop itself" in refusal(os.getpid()).message


def test_the_target_ends_meanwhile(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = trim_thread.choose
    with waiting(program, "read") as waiter:

        def too_late(*arguments: object) -> tuple[list[Candidate], dict[int, str]]:
            found = choose(*arguments)  # type: ignore[arg-type]
            waiter.kill()
            return found

        monkeypatch.setattr(trim_thread, "choose", too_late)
        error = refusal(waiter.pid, 20)
    assert isinstance(error, NoSuchProcess) and error.exit_code == 3


@pytest.mark.parametrize("milliseconds", [0, 0.3, 1, 2, 4, 8])
def test_a_deadline_may_pass_at_any_point(target: Steady, milliseconds: float) -> None:
    condition = target.condition()
    begun = time.monotonic_ns()
    try:
        done = trim(target.pid, milliseconds / 1000)
        assert dataclasses.is_dataclass(done)
    except Unsafe as error:
        assert time.monotonic_ns() - begun >= milliseconds * 1e6
        assert error.exit_code == 7
    assert target.counts()["errors"] == 0
    assert target.condition() == condition


def test_static_program(tmp_path: Path) -> None:
    """It holds little of libc, and lacks a piece of code that the call is put together from."""
    with waiting(build(tmp_path, "trimmed", "-static"), "read") as waiter:
        error = refusal(waiter.pid)
        assert (error.exit_code, "no readable library with the code" in error.message) == (8, True)
        assert_found_all_as_it_was(waiter, 1)


def test_first_process_of_a_pid_namespace(program: Path) -> None:
    """The thread's own number for itself is another than ours."""
    if os.geteuid():
        pytest.skip("needs CAP_SYS_ADMIN to make a pid namespace")
    wrapper = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with subprocess.Popen(
        [*wrapper, str(program), "read"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        [inner] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert trim(int(inner)).returned == 1
        process.kill()
