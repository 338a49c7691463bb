"""The gdb driver on its own: calls, calls that fault or never return, and every way to fail."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import ask_targets
from live.ask_targets import Target

from allocscope.act.gdb import CallRefused, Gdb
from allocscope.errors import (
    AllocscopeError,
    MissingPart,
    NoSuchProcess,
    PermissionRefused,
    Unsafe,
)
from allocscope.proc import procfs

GETPID, PAUSE = 39, 34
NOBODY = 65534
SYSCALL = "long(long)"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ask_targets.build(tmp_path_factory.mktemp("target"))


@pytest.fixture
def target(program: Path) -> Iterator[Target]:
    """A target that must be found unharmed, untraced and running at the end of the test."""
    with ask_targets.started(program, "idle", "2") as target:
        yield target
        assert procfs.status(target.pid).tracer_pid == 0
        target.finish()


def in_seconds(seconds: float) -> int:
    return time.monotonic_ns() + int(seconds * 1e9)


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_calls_by_address(target: Target) -> None:
    with Gdb(in_seconds(30)) as gdb:
        gdb.attach(target.pid)
        assert procfs.status(target.pid).tracer_pid == gdb.process_id
        assert {task.state for task in procfs.tasks(target.pid)} == {"t"}
        assert gdb.call(target.symbols["syscall"], SYSCALL, (GETPID,)) == target.pid
        ahead = [gdb.submit_call(target.symbols["syscall"], SYSCALL, (GETPID,)) for _ in range(3)]
        assert [gdb.returned(token) for token in ahead] == [target.pid] * 3
        gdb.release()
        assert procfs.status(target.pid).tracer_pid == 0
    assert is_gone(gdb.process_id)


def test_the_end_of_the_block_lets_go(target: Target) -> None:
    with Gdb(in_seconds(30)) as gdb:
        gdb.attach(target.pid)
    assert is_gone(gdb.process_id)


def test_a_process_can_be_attached_again(target: Target) -> None:
    with Gdb(in_seconds(30)) as gdb:
        for _ in range(3):
            gdb.attach(target.pid)
            assert gdb.call(target.symbols["syscall"], SYSCALL, (GETPID,)) == target.pid
            gdb.release()


def test_a_rehearsal_leaves_nothing(target: Target) -> None:
    own = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    before = own.read_text()
    with Gdb(in_seconds(30)) as gdb:
        gdb.rehearse()
        gdb.attach(target.pid)
        assert gdb.call(target.symbols["syscall"], SYSCALL, (GETPID,)) == target.pid
    assert own.read_text() == before


def test_a_call_that_faults_is_undone(target: Target) -> None:
    with Gdb(in_seconds(30)) as gdb:
        gdb.attach(target.pid)
        with pytest.raises(CallRefused):
            gdb.call(0, "int(void)")
        assert gdb.call(target.symbols["syscall"], SYSCALL, (GETPID,)) == target.pid


def test_a_call_that_never_returns_ends_with_the_deadline(target: Target) -> None:
    with Gdb(in_seconds(1)) as gdb:
        gdb.attach(target.pid)
        with pytest.raises(Unsafe, match="deadline"):
            gdb.call(target.symbols["syscall"], SYSCALL, (PAUSE,))
        gdb.break_off()
        gdb.grant()
        assert gdb.call(target.symbols["syscall"], SYSCALL, (GETPID,)) == target.pid


def test_the_end_of_the_block_breaks_a_call_off(target: Target) -> None:
    with Gdb(in_seconds(1)) as gdb, pytest.raises(Unsafe, match="deadline"):
        gdb.attach(target.pid)
        gdb.call(target.symbols["syscall"], SYSCALL, (PAUSE,))
    assert is_gone(gdb.process_id)


def test_control_c_in_a_call(target: Target) -> None:
    """SIGINT comes when the call is known to be under way, and only to us."""

    def interrupt_during_the_call() -> None:
        place = Path(f"/proc/{target.pid}/task/{target.pid}/syscall")
        while not place.read_text().startswith(f"{PAUSE} "):
            os.sched_yield()
        os.kill(os.getpid(), signal.SIGINT)

    with Gdb(in_seconds(30)) as gdb:
        gdb.attach(target.pid)
        helper = threading.Thread(target=interrupt_during_the_call)
        helper.start()
        with pytest.raises(KeyboardInterrupt):
            gdb.call(target.symbols["syscall"], SYSCALL, (PAUSE,))
        helper.join()
    assert is_gone(gdb.process_id)


@pytest.mark.parametrize("sent", [True, False])
def test_control_c_around_the_sending_of_a_call(target: Target, sent: bool) -> None:
    """It comes right behind the sending, or right before: the call that runs nevertheless is
    undone, and one that was never made is not waited for."""

    class Interrupted(Gdb):
        def submit(self, command: str) -> int:
            calls = command.startswith("-data-evaluate-expression")
            token = super().submit(command) if sent or not calls else 0
            if calls:
                raise KeyboardInterrupt
            return token

    with Interrupted(in_seconds(30)) as gdb, pytest.raises(KeyboardInterrupt):
        gdb.attach(target.pid)
        gdb.call(target.symbols["syscall"], SYSCALL, (PAUSE,))
    assert is_gone(gdb.process_id)


def test_gdb_dies(target: Target) -> None:
    with Gdb(in_seconds(30)) as gdb:
        gdb.attach(target.pid)
        os.kill(gdb.process_id, signal.SIGKILL)
        with pytest.raises(Unsafe, match="gdb ended in the middle"):
            gdb.call(target.symbols["syscall"], SYSCALL, (GETPID,))


def test_there_is_no_gdb() -> None:
    with pytest.raises(MissingPart, match="no such-gdb") as missing:
        Gdb(in_seconds(5), program="such-gdb")
    assert missing.value.exit_code == 8
    assert "apt install gdb" in missing.value.hint
    assert "dnf install gdb" in missing.value.hint


def test_gdb_does_not_start() -> None:
    with Gdb(in_seconds(20), program="/bin/false") as gdb, pytest.raises(MissingPart):
        gdb.ready()


def test_there_is_no_such_process() -> None:
    ended = subprocess.Popen(["true"], stdout=subprocess.DEVNULL)
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    with Gdb(in_seconds(30)) as gdb:
        with pytest.raises(NoSuchProcess, match="zombie"):
            gdb.attach(ended.pid)
        ended.wait()
        with pytest.raises(NoSuchProcess) as gone:
            gdb.attach(ended.pid)
    assert gone.value.exit_code == 3


def test_somebody_else_traces_it(target: Target) -> None:
    with Gdb(in_seconds(30)) as first, Gdb(in_seconds(30)) as second:
        first.attach(target.pid)
        with pytest.raises(Unsafe, match=f"already traced by process {first.process_id}"):
            second.attach(target.pid)
        assert first.call(target.symbols["syscall"], SYSCALL, (GETPID,)) == target.pid


def attach_as_nobody(pid: int) -> tuple[int, str]:
    """Exit code and message of an attempt by another user, in a child without a fresh interpreter
    (which that user might not be allowed to start)."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        code = 0
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with Gdb(in_seconds(20)) as gdb:
                gdb.attach(pid)
        except AllocscopeError as error:
            code = error.exit_code
            os.write(writer, str(error).encode())
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader) as pipe:
        message = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), message


@pytest.mark.skipif(os.geteuid() != 0, reason="needs CAP_SETUID to become another user")
def test_ptrace_is_forbidden(target: Target) -> None:
    code, message = attach_as_nobody(target.pid)
    assert code == PermissionRefused.exit_code
    assert "CAP_SYS_PTRACE" in message


def test_gdb_is_out_of_reach_of_the_terminal() -> None:
    with Gdb(in_seconds(30)) as gdb:
        gdb.ready()
        assert os.getsid(gdb.process_id) == gdb.process_id != os.getsid(0)


def test_closing_twice_is_harmless() -> None:
    gdb = Gdb(in_seconds(30))
    gdb.close()
    gdb.close()
    with pytest.raises((AllocscopeError, ValueError)), contextlib.closing(gdb):
        gdb.ready()
