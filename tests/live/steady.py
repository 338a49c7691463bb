"""The self-checking programs of targets/, and what a test wants to know about a process.

Rule: every wait ends with an event (a line, the end of a process), never with a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

TARGETS = Path(__file__).parent / "targets"
PATIENCE_MS = 20_000


def build(directory: Path, name: str, *options: str) -> Path:
    """The program targets/NAME.c, compiled into ``directory``."""
    program = directory / name
    command = ["gcc", "-std=gnu11", "-O2", "-pthread", "-Wall", "-Wextra", "-Werror", *options]
    subprocess.run([*command, str(TARGETS / f"{name}.c"), "-o", str(program)], check=True)
    return program


@dataclasses.dataclass(frozen=True)
class Condition:
    """What an observer must leave as it was."""

    descriptors: tuple[str, ...]
    threads: dict[int, dict[str, str]]


class Steady:
    """A running ``steady``: ``pid`` as we see it, the words that it printed when ready."""

    def __init__(self, process: subprocess.Popen[str], said: dict[str, Any], pid: int) -> None:
        self._process = process
        self.pid = pid
        self.threads: dict[str, int] = said["threads"]
        self.beat_address: int = said["beat"]
        self.stderr: tuple[int, int] = said["stderr_variable"], said["stderr_file"]

    def counts(self) -> dict[str, Any]:
        """Comes when every worker has gone round twice more."""
        return self._ask("counts")

    def start_anew(self) -> None:
        """By execve."""
        assert self._ask("exec")["pid"]

    def end(self) -> None:
        """By SIGKILL; collected."""
        self._process.kill()
        self._process.wait()

    def _ask(self, word: str) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return dict(json.loads(_line(self._process)))

    def condition(self) -> Condition:
        threads = {int(tid): self._lines(tid) for tid in names(self.pid, "task")}
        return Condition(tuple(names(self.pid, "fd")), threads)

    def _lines(self, tid: str) -> dict[str, str]:
        lines = Path(f"/proc/{self.pid}/task/{tid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        wanted = ("TracerPid", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "Seccomp")
        return {name: fields[name].strip() for name in wanted}


@contextlib.contextmanager
def steady(program: Path, *options: str, wrapper: Sequence[str] = ()) -> Iterator[Steady]:
    """Runs ``steady``, below ``wrapper`` if one is given (which then has it as its only child)."""
    command = [*wrapper, str(program), *options]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            said = json.loads(_line(process))
            pid = children(process.pid)[0] if wrapper else process.pid
            yield Steady(process, said, pid)
        finally:
            process.kill()


@contextlib.contextmanager
def refused(program: Path, kind: str) -> Iterator[int]:
    """The pid of a process that no snapshot may be made of."""
    with subprocess.Popen(
        [str(program), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield int(_line(process))
        finally:
            assert process.stdin
            process.stdin.close()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    ready, _, _ = select.select([process.stdout], [], [], PATIENCE_MS / 1000)
    assert ready, "the program said nothing: a thread of it does not go on"
    line = process.stdout.readline()
    assert line, f"the program has ended with status {process.wait()}"
    return line


def names(pid: int, directory: str) -> list[str]:
    """What /proc/PID/directory holds, sorted."""
    return sorted(entry.name for entry in Path(f"/proc/{pid}/{directory}").iterdir())


def children(pid: int) -> list[int]:
    found: list[int] = []
    for tid in names(pid, "task"):
        found += map(int, Path(f"/proc/{pid}/task/{tid}/children").read_text().split())
    return found


def state(pid: int | str) -> str:
    """The kernel's letter, of a process or of PID/task/TID; "" when there is no such one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_state(pid: int, wanted: str) -> None:
    """Until the kernel shows that state: a thread that was let go has to run to get there."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while state(pid) != wanted:
        assert time.monotonic() < deadline, f"{pid} is in state {state(pid)}, not {wanted}"
        os.sched_yield()


def wait_asleep(pid: int) -> None:
    """Until every thread sleeps in a system call: one that has said what it has to say still has to
    go to wait."""
    deadline = time.monotonic() + PATIENCE_MS / 1000
    awake = names(pid, "task")
    while awake:
        assert time.monotonic() < deadline, f"threads {awake} of {pid} do not fall asleep"
        os.sched_yield()
        awake = [tid for tid in awake if not _sleeps(pid, tid)]


def _sleeps(pid: int, tid: str) -> bool:
    """The state alone is not enough: a thread is in it from shortly before it gives up its
    processor, where it may be preempted and run once more. The file says "running" until then, and
    -1 of one that waits outside of any call, for a page."""
    if state(f"{pid}/task/{tid}") not in ("S", ""):
        return False
    try:
        return Path(f"/proc/{pid}/task/{tid}/syscall").read_text().split()[0] not in (
            "running",
            "-1",
        )
    except (FileNotFoundError, ProcessLookupError):
        return True


def same_program(program: Path) -> set[int]:
    """All processes that have memory and run ``program``."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "exe").readlink() == program:
                found.add(int(entry.name))
    return found


def wait_end(pid: int) -> None:
    """Until the process is dead (a zombie counts)."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    with open(descriptor, "rb"):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        assert poll.poll(PATIENCE_MS), f"process {pid} is still alive, state {state(pid)}"
