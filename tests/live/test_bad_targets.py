"""Targets that cannot be read, or have no glibc heap: each a clear error with its exit code, and
unharmed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from live import targets

from allocscope.errors import AllocscopeError, NoGlibcHeap, NoSuchProcess, PermissionRefused
from allocscope.model.libc import LibcImage
from allocscope.proc import libc, procfs, refusal


def look(pid: int) -> tuple[LibcImage, ...]:
    """What every command does first."""
    process = procfs.identify(pid)
    return libc.require_glibc(process, libc.identify(pid, procfs.mappings(pid)))


def refused(pid: int, kind: type[AllocscopeError], *words: str) -> None:
    with pytest.raises(kind) as raised:
        look(pid)
    for word in words:
        assert word in str(raised.value)
    assert raised.value.hint


@pytest.mark.parametrize("pid", [-1, 0, 1 << 22, 1 << 31, 1 << 40])
def test_no_such_process(pid):
    refused(pid, NoSuchProcess, f"no process {pid}")


def test_a_process_that_has_ended(waits):
    with targets.running([waits]) as target:
        pid = target.pid
    refused(pid, NoSuchProcess, f"no process {pid}")


def test_a_kernel_thread():
    kernel_threads = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(ValueError, NoSuchProcess):  # no process, or one that just ended
            if procfs.stat(int(entry.name)).kernel_thread:
                kernel_threads.append(int(entry.name))
    if not kernel_threads:
        pytest.skip("this kernel has no kernel threads in sight (a container)")
    refused(kernel_threads[0], NoGlibcHeap, "a kernel thread has no heap")


def test_a_zombie():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        refused(pid, NoSuchProcess, "zombie", f"process {os.getpid()}")
    finally:
        os.waitpid(pid, 0)


def test_a_thread_is_not_a_process(waits):
    with targets.running([waits, "threads", "1"]) as target:
        tid = procfs.tasks(target.pid)[1].tid
        refused(tid, NoSuchProcess, f"thread of process {target.pid}", f"Use {target.pid}.")


def test_a_process_without_its_main_thread(waits):
    """The kernel lets go of a dead main thread's view of the memory; another thread's works."""
    with targets.running([waits, "leaderless"]) as target:
        survivor = procfs.tasks(target.pid)[1].tid
        refused(target.pid, NoSuchProcess, "main thread", f"Use {survivor}")
        (image,) = look(survivor)
        assert image.kind == "glibc"


def test_pid_1():
    """Read or refused; where it is refused, the message says why."""
    try:
        process = procfs.identify(1)
    except PermissionRefused as error:
        assert "process 1:" in error.message
        assert error.hint
    else:
        assert process.pid == 1
        assert process.start_ticks < procfs.stat(os.getpid()).start_ticks


def test_a_process_of_another_user(waits):
    targets.need_root()
    with targets.running([waits]) as target:

        def as_nobody() -> str:
            targets.become_nobody()
            procfs.identify(target.pid)
            return "read"

        answer = targets.in_fork(as_nobody)
    assert answer.startswith(
        f"PermissionRefused: not allowed to read the executable of process {target.pid}"
    )
    assert "it belongs to uid 0, you are uid 65534, without CAP_SYS_PTRACE" in answer
    assert "Run it as root" in answer


@pytest.mark.parametrize("read", [procfs.mappings, procfs.smaps, procfs.environ, procfs.auxv])
def test_every_file_that_needs_permission_says_so(waits, read: Callable[[int], object]):
    targets.need_root()
    with targets.running([waits]) as target:

        def as_nobody() -> str:
            targets.become_nobody()
            procfs.stat(target.pid)
            procfs.status(target.pid)
            procfs.rss_bytes(target.pid)
            procfs.tasks(target.pid)
            return str(read(target.pid))

        assert targets.in_fork(as_nobody).startswith("PermissionRefused: not allowed to read ")


def test_an_own_process_that_is_not_dumpable(waits):
    """Nobody may look at nobody's process once it forbids it."""
    targets.need_root()

    def as_nobody() -> str:
        targets.become_nobody()
        ready, done = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            targets.forbid_dumps()
            os.write(ready[1], b"x")
            os.read(done[0], 1)
            os._exit(0)
        try:
            os.read(ready[0], 1)
            return str(procfs.mappings(pid))
        finally:
            os.write(done[1], b"x")
            os.waitpid(pid, 0)

    answer = targets.in_fork(as_nobody)
    assert answer.startswith("PermissionRefused: not allowed to read maps")
    assert "not dumpable" in answer


def test_a_hidden_process(waits):
    targets.need_root()
    with targets.running([waits]) as target:

        def as_nobody() -> str:
            targets.hide_processes()
            targets.become_nobody()
            assert not Path(f"/proc/{target.pid}").exists()
            procfs.identify(target.pid)
            return "read"

        answer = targets.in_fork(as_nobody)
    assert answer.startswith("PermissionRefused")
    assert "hidepid" in answer


def test_a_missing_process_is_missing_behind_hidepid_too():
    targets.need_root()

    def as_nobody() -> str:
        targets.hide_processes()
        targets.become_nobody()
        procfs.identify(1 << 22)
        return "read"

    assert targets.in_fork(as_nobody).startswith("NoSuchProcess: there is no process")


def test_existence_needs_no_permission(waits):
    targets.need_root()
    with targets.running([waits]) as target:

        def as_nobody() -> str:
            targets.become_nobody()
            return str(refusal.exists(target.pid))

        assert targets.in_fork(as_nobody) == "True"
    assert not refusal.exists(target.pid)


def test_a_32_bit_program(tmp_path):
    program = targets.program_32(tmp_path / "small")
    with targets.running([program], ends_at_eof=False) as target:
        refused(target.pid, NoGlibcHeap, "static program without a trace")
        assert target.process.poll() is None


def test_a_go_program(tmp_path):
    program = targets.program_of_go(tmp_path / "small")
    with targets.running([program], ends_at_eof=False) as target:
        refused(target.pid, NoGlibcHeap, "Go program")


def test_a_static_program_without_a_c_library(tmp_path):
    program = targets.program_of_nothing(tmp_path / "small")
    with targets.running([program], ends_at_eof=False) as target:
        refused(target.pid, NoGlibcHeap, "static program without a trace")


def test_a_dynamic_musl_program(tmp_path):
    program = targets.compile_c("waits.c", tmp_path / "waits", compiler="musl-gcc")
    with targets.running([program]) as target:
        refused(target.pid, NoGlibcHeap, "uses musl 1.")


def test_a_static_musl_program(tmp_path):
    program = targets.compile_c("waits.c", tmp_path / "waits", "-static", compiler="musl-gcc")
    with targets.running([program]) as target:
        refused(target.pid, NoGlibcHeap, "musl")


def test_a_library_that_is_only_named_like_musl(tmp_path, waits):
    """Any project may call a library libc.so."""
    library = tmp_path / "libc.so"
    targets.compile_c("own_malloc.c", library, "-shared", "-fPIC", "-fno-builtin")
    with targets.running([waits, "dlopen", library]) as target:
        glibc, other = libc.identify(target.pid, procfs.mappings(target.pid))
        assert (glibc.kind, other.kind, other.path) == ("glibc", "unknown", str(library))
        assert look(target.pid) == (glibc,)


def test_a_stopped_process_is_read_and_stays_stopped(waits):
    with targets.running([waits]) as target:
        target.process.send_signal(19)
        os.waitid(os.P_PID, target.pid, os.WSTOPPED | os.WNOWAIT)
        (image,) = look(target.pid)
        assert image.kind == "glibc"
        assert procfs.stat(target.pid).state == "T"
        assert procfs.stillness(target.pid).all_sleeping
        target.process.send_signal(18)


def test_a_process_that_dies_half_way(waits):
    """Between any two readings: an answer or NoSuchProcess, nothing else."""
    readings: tuple[Callable[[int], object], ...] = (
        procfs.mappings,
        procfs.smaps,
        procfs.smaps_rollup,
        procfs.status,
        procfs.environ,
        procfs.tasks,
        procfs.stillness,
        procfs.rss_bytes,
        look,
    )
    for read in readings:
        with targets.running([waits]) as target:
            process = procfs.identify(target.pid)
            target.process.kill()
            outcomes = []
            while target.process.poll() is None:
                outcomes.append(outcome(read, target.pid))
            outcomes.append(outcome(read, target.pid))
            assert outcomes[-1] == "NoSuchProcess"
            assert set(outcomes) <= {"read", "NoSuchProcess"}
            with pytest.raises(NoSuchProcess, match="meanwhile"):
                procfs.same(process)


def outcome(read: Callable[[int], object], pid: int) -> str:
    try:
        read(pid)
    except AllocscopeError as error:
        return type(error).__name__
    return "read"


def test_allocscope_itself():
    (image,) = look(os.getpid())
    assert image.kind == "glibc"
