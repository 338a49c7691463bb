"""Processes of which no snapshot is made: each has its own message, exit code and cure."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live.steady import Steady, build, children, refused, steady

from allocscope.act.forecast import Forecast, forecast_of
from allocscope.act.snapshot import frozen
from allocscope.act.tracer import failure
from allocscope.errors import (
    AllocscopeError,
    NoGlibcHeap,
    NoSuchProcess,
    PermissionRefused,
    Unsafe,
)
from allocscope.native import lib


@pytest.fixture(scope="module")
def refused_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("targets"), "refused")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steady]:
    with steady(build(tmp_path_factory.mktemp("targets"), "steady")) as running:
        yield running


def refusal(pid: int, **options: object) -> AllocscopeError:
    """The error that a snapshot of ``pid`` ends with."""
    with (
        pytest.raises(AllocscopeError) as caught,
        frozen(pid, deadline_ns=time.monotonic_ns() + 5_000_000_000, **options),  # type: ignore[arg-type]
    ):
        pass
    return caught.value


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("seccomp", "seccomp filter"),
        ("vfork", "vfork child"),
        ("dispatch", "its own system calls"),
        ("namespace", "new pid namespace"),
    ],
)
def test_unsafe_processes(refused_program: Path, kind: str, word: str) -> None:
    if kind == "namespace" and os.geteuid():
        pytest.skip("needs CAP_SYS_ADMIN to choose a pid namespace")
    with refused(refused_program, kind) as pid:
        error = refusal(pid)
    assert isinstance(error, Unsafe)
    assert word in error.message
    assert error.hint


def test_zombie(refused_program: Path) -> None:
    with refused(refused_program, "zombie") as pid:
        error = refusal(pid)
    assert isinstance(error, NoSuchProcess)
    assert "zombie" in error.message


def test_no_such_process() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert isinstance(refusal(ended.pid), NoSuchProcess)


def test_kernel_thread() -> None:
    name = Path("/proc/2/comm")
    if not name.exists() or name.read_text() != "kthreadd\n":
        pytest.skip("this kernel has no kernel threads in sight (a container)")
    error = refusal(2)
    assert isinstance(error, NoGlibcHeap)
    assert "kernel thread" in error.message


def test_itself() -> None:
    error = refusal(os.getpid())
    assert isinstance(error, Unsafe)
    assert "itself" in error.message


def test_already_traced(target: Steady) -> None:
    command = ["strace", "-f", "-o", os.devnull, "-p", str(target.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr
        assert "attached" in tracer.stderr.readline()
        error = refusal(target.pid)
        tracer.terminate()
    assert isinstance(error, Unsafe)
    assert f"already traced by {tracer.pid} (strace)" in error.message


def test_another_users_process(target: Steady) -> None:
    if os.geteuid():
        pytest.skip("needs CAP_SETUID to become another user")

    def as_nobody() -> str:
        os.setgid(65534)
        os.setuid(65534)
        error = refusal(target.pid)
        return f"{type(error).__name__} {error.exit_code} {error}"

    said = in_child(as_nobody)
    assert said.startswith(f"{PermissionRefused.__name__} 4 ")
    assert "CAP_SYS_PTRACE" in said


def in_child(work: Callable[[], str]) -> str:
    """What ``work`` returns in a child of this process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = work()
        except BaseException as error:
            text = repr(error)
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read().decode()
    os.waitpid(pid, 0)
    return text


def test_pause_above_what_is_allowed(target: Steady) -> None:
    error = refusal(target.pid, max_pause_ns=1)
    assert isinstance(error, Unsafe)
    assert "ms allowed" in error.message
    assert "--max-pause" in error.hint


@pytest.mark.parametrize(
    ("change", "word"),
    [({"headroom_bytes": 0, "limit": "memory.max"}, "memory.max"), ({"processes_left": 1}, "pids")],
)
def test_no_room(target: Steady, change: dict[str, object], word: str) -> None:
    expected: Forecast = dataclasses.replace(forecast_of(target.pid), **change)  # type: ignore[arg-type]
    error = refusal(target.pid, forecast=expected)
    assert isinstance(error, Unsafe)
    assert word in str(error)


def test_limit_of_a_cgroup(
    limited_group: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    group, limit = limited_group
    program = build(tmp_path_factory.mktemp("targets"), "steady")
    with steady(program, "--single") as small:
        (group / "cgroup.procs").write_text(str(small.pid))
        expected = forecast_of(small.pid)
        assert expected.limit == str(group / limit)
        assert 32 << 20 < expected.headroom_bytes <= 64 << 20


def test_a_memory_limit_that_leaves_no_room(
    limited_group: tuple[Path, str], tmp_path: Path
) -> None:
    """A quarter of 64 MiB may be needed while a copy lives, and 8 MiB are left."""
    group, limit = limited_group
    with steady(build(tmp_path, "steady"), "--single", "--mib", "64") as large:
        (group / limit).write_text(str(8 << 20))
        (group / "cgroup.procs").write_text(str(large.pid))
        error = refusal(large.pid)
        assert isinstance(error, Unsafe)
        assert str(group / limit) in error.message
        assert large.counts()["errors"] == 0
        assert children(large.pid) == []


@pytest.fixture
def crowded_group() -> Iterator[Path]:
    """A cgroup below our own in which the number of processes can be limited."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "pids" in options.split(",")):
            group = Path(fields.split()[4]) / f"allocscope-test-{os.getpid()}"
            try:
                group.mkdir()
                (group / "pids.max").write_text("max")
            except OSError:
                group.rmdir() if group.exists() else None
                continue
            yield group
            group.rmdir()
            return
    pytest.skip("needs a writable cgroup with the pids controller (CAP_SYS_ADMIN)")


def test_a_limit_of_processes(crowded_group: Path, tmp_path: Path) -> None:
    """Seen beforehand; and where it is reached in between, the kernel's own refusal of the copy,
    which every lack of memory or process numbers ends in, leaves the target as it was."""
    with steady(build(tmp_path, "steady"), "--single") as target:
        condition = target.condition()
        (crowded_group / "cgroup.procs").write_text(str(target.pid))
        (crowded_group / "pids.max").write_text((crowded_group / "pids.current").read_text())
        expected = forecast_of(target.pid)
        assert expected.processes_left == 0
        assert "pids.max" in refusal(target.pid).hint
        blind = dataclasses.replace(expected, processes_left=None)
        error = refusal(target.pid, forecast=blind)
        assert isinstance(error, Unsafe)
        assert "the kernel refused" in error.message
        assert "pids.max" in error.hint and "overcommit" in error.hint
        counts = target.counts()
        assert counts["errors"] == counts["sigchld"] == 0
        assert (target.condition(), children(target.pid)) == (condition, [])


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN])
def test_what_the_kernel_says_when_there_is_no_room(number: int) -> None:
    """ENOMEM is what overcommit 2 gives (vm.overcommit_memory concerns the whole machine, so no
    test sets it)."""
    error = failure(1, "1 (init)", lib.AS_AT_CALL, number)
    assert isinstance(error, Unsafe)
    assert "overcommit" in error.hint


def test_code_that_is_not_mapped_any_more_is_another_program() -> None:
    """Between finding the code and stopping a thread the target may call exec."""
    gone = failure(1, "1 (init)", lib.AS_AT_CODE, errno.EFAULT)
    other = failure(1, "1 (init)", lib.AS_AT_CODE, errno.EILSEQ)
    assert isinstance(gone, NoSuchProcess) and "another program" in gone.message
    assert isinstance(other, Unsafe) and "differs in memory" in other.message


def test_nothing_happened_to_the_target(target: Steady) -> None:
    """After all the refusals above."""
    counts = target.counts()
    assert counts["errors"] == counts["sigchld"] == 0
    assert children(target.pid) == []
