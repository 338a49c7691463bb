"""targets/trimmed.c: a thread that waits in a known call, and tells afterwards what it found."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from live.steady import PATIENCE_MS, names, state

from allocscope.act import live_trim
from allocscope.app.target import find_malloc, look
from allocscope.model.trim import LiveCall
from allocscope.proc.memory import ProcessMemory

RESTART_SYSCALL = 219


class Waiter:
    """A running ``trimmed`` whose waiter is in its call. ``before``: what ``condition`` must give
    for as long as it is."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._begin()

    def _begin(self) -> None:
        said = self._line()
        self.pid: int = said["pid"]
        self.tid: int = said["tid"]
        self.free_pages: int = said["free_pages"]
        self.call: int = said["call"]
        self.wait_for_call()
        self.before = self.condition()

    def start_anew(self) -> None:
        """By execve; comes when the waiter is dead. Whoever traces it has to collect it before the
        new program can begin: ``begin_anew`` comes when it has."""
        self._tell("exec")
        self._wait_dead()

    def begin_anew(self) -> None:
        self._begin()

    def kill(self) -> None:
        """By SIGKILL; comes when the waiter is dead."""
        self._process.kill()
        self._wait_dead()

    def _wait_dead(self) -> None:
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while state(self.tid) not in ("", "Z", "X"):
            assert time.monotonic() < deadline, f"the waiter is in state {state(self.tid)}"
            os.sched_yield()

    def end(self) -> dict[str, Any]:
        """Ends the wait: the result of the call, and what had changed around it."""
        self._tell("end")
        return self._line()

    def _tell(self, word: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()

    def wait_for_call(self) -> int:
        """Until the waiter is in its call, by the number that the kernel has for it now."""
        deadline = time.monotonic() + PATIENCE_MS / 1000
        path = Path(f"/proc/{self.pid}/task/{self.tid}/syscall")
        while (word := path.read_text().split()[0]) not in (str(self.call), str(RESTART_SYSCALL)):
            assert time.monotonic() < deadline, f"the waiter is in {word}"
            os.sched_yield()
        return int(word)

    def condition(self) -> tuple[object, ...]:
        """Descriptors, threads and their signals, tracers, children."""
        threads = {tid: self._lines(tid) for tid in names(self.pid, "task")}
        children = [
            Path(f"/proc/{self.pid}/task/{tid}/children").read_text() for tid in sorted(threads)
        ]
        return names(self.pid, "fd"), threads, children

    def resident_pages(self) -> int:
        """Of anonymous memory, by the kernel's own count."""
        status = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        line = next(line for line in status.splitlines() if line.startswith("Anonymous:"))
        return int(line.split()[1]) // 4

    def _lines(self, tid: str) -> dict[str, str]:
        lines = Path(f"/proc/{self.pid}/task/{tid}/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        # sigtimedwait lets its signals in while it waits: the mask differs with the moment
        wanted = ("TracerPid", "SigPnd", "ShdPnd", "SigIgn", "SigCgt", "Seccomp")
        return {name: fields[name].strip() for name in wanted}

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the program has ended with status {self._process.wait()}"
        return dict(json.loads(line))


@contextlib.contextmanager
def waiting(program: Path, kind: str, *options: str) -> Iterator[Waiter]:
    with subprocess.Popen(
        [str(program), kind, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield Waiter(process)
        finally:
            process.kill()


def trim(pid: int, deadline_s: float = 20, pad_bytes: int = 0) -> LiveCall:
    """malloc_trim by process ``pid`` itself, as the command does it."""
    target = look(pid)
    with ProcessMemory(pid) as memory:
        located, image = find_malloc(memory, target)
    deadline_ns = time.monotonic_ns() + int(deadline_s * 1e9)
    return live_trim.trim(pid, image, located, pad_bytes=pad_bytes, deadline_ns=deadline_ns)
