"""The self-checking targets: built once for all glibcs, run under a chosen one, looked at from
outside.

Rules: the target itself tells what went wrong in it; what is asked of the kernel besides (the state
of each task, its tracer, the children, the descriptors) is read from /proc here, not by allocscope.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from glibcs import programs
from glibcs.fetch import Tree

SOURCES = Path(__file__).parent / "targets"
PATIENCE_S = 120
_EXIT_SIGNAL = 38 - 3  # field 38 of stat, counted from the state


class Harmed(AssertionError):
    """The target is not as it was."""


def build(directory: Path, name: str) -> Path:
    """The program targets/NAME.c; runs under every glibc."""
    sources = [SOURCES / f"{name}.c", SOURCES / "workers.c"]
    return programs.build(sources, directory / name, f"-I{SOURCES}")


class Target:
    """A running target. ``threads``: their numbers by name, the main thread among them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        ready = self._line()
        self.pid: int = ready["pid"]
        self.threads: dict[str, int] = ready["threads"]
        self._descriptors = names(self.pid, "fd")

    def counts(self) -> dict[str, Any]:
        """What the target says of itself, when every worker has gone round twice more."""
        assert self._process.stdin
        self._process.stdin.write("counts\n")
        self._process.stdin.flush()
        return self._line()

    def examine(self) -> dict[str, Any]:
        """Its own counts, after a look from outside. Raises Harmed."""
        counts = self.counts()  # whoever was in a call of ours is out of it again
        self.wait("a child that a snapshot made is alive", lambda: not self._copies("Z"))
        wrong = [f"{tid}: {why}" for tid in names(self.pid, "task") if (why := self._why(tid))]
        if counts["errors"]:
            wrong.append(f"errors in {counts['wrong']}")
        if names(self.pid, "fd") != self._descriptors:
            wrong.append(f"descriptors {names(self.pid, 'fd')}, before {self._descriptors}")
        if wrong:
            raise Harmed("; ".join(wrong))
        return counts

    def zombies(self) -> list[int]:
        """Dead children that nobody has collected and whose end was announced to nobody: ours."""
        return self._copies("")

    def wait(self, what: str, over: Callable[[], bool]) -> None:
        """Until something is over that ends by itself, within microseconds or never."""
        deadline = time.monotonic() + PATIENCE_S
        while not over():
            if time.monotonic() > deadline:
                raise Harmed(what)
            os.sched_yield()

    def _copies(self, but_in_state: str) -> list[int]:
        found = []
        for tid in names(self.pid, "task"):
            with contextlib.suppress(FileNotFoundError):
                text = Path(f"/proc/{self.pid}/task/{tid}/children").read_text()
                found += [int(child) for child in text.split()]
        return [child for child in found if _is_copy(child, but_in_state)]

    def _why(self, tid: str) -> str:
        try:
            lines = Path(f"/proc/{self.pid}/task/{tid}/status").read_text().splitlines()
        except FileNotFoundError:
            return ""
        fields = dict(line.split(":", 1) for line in lines)
        if fields["State"].strip()[0] in "tTXZ":
            return f"state {fields['State'].strip()}"
        return f"traced by {tracer}" if (tracer := fields["TracerPid"].strip()) != "0" else ""

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout
        ready, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
        if not ready:
            raise Harmed("the target said nothing: a thread of it does not go on")
        line = self._process.stdout.readline()
        if not line:
            raise Harmed(f"the target has ended with status {self._process.wait()}")
        return dict(json.loads(line))


@contextlib.contextmanager
def running(tree: Tree, program: Path, *arguments: str) -> Iterator[Target]:
    """A target under the tree's C library, with the machine's leftover time."""
    with subprocess.Popen(
        ["nice", "-n", "19", *programs.loader_of(tree), str(program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Target(process)
        finally:
            process.kill()


def names(pid: int, directory: str) -> list[str]:
    """What /proc/PID/directory holds, sorted."""
    return sorted(entry.name for entry in Path(f"/proc/{pid}/{directory}").iterdir())


def _is_copy(child: int, but_in_state: str) -> bool:
    try:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[_EXIT_SIGNAL] == "0" and fields[0] != but_in_state
