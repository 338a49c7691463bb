"""The command as people run it, and whether the process that it looked at came to harm."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120.0


def command(*words: str, wrapper: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end, below ``wrapper`` if one is given."""
    return subprocess.run(
        [*wrapper, sys.executable, "-m", "allocscope", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, "COLUMNS": "100"},
        check=False,
    )


def assert_refused(
    done: subprocess.CompletedProcess[str], status: int, cause: str, cure: str
) -> None:
    """It ended with ``status``, with nothing on stdout and two things on stderr: what happened, and
    what to do about it."""
    said = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert said[0].startswith("allocscope: ")
    assert cause in said[0]
    assert cure in " ".join(said[1:])


@dataclasses.dataclass(frozen=True)
class Condition:
    """What nobody who only looks may change. ``threads``: their state, tracer, signals pending,
    blocked and caught, by tid."""

    start_ticks: str
    threads: dict[str, tuple[str, ...]]
    descriptors: tuple[str, ...]


def condition(pid: int) -> Condition:
    process = Path(f"/proc/{pid}")
    descriptors: tuple[str, ...] = ()
    with contextlib.suppress(PermissionError):
        descriptors = tuple(sorted(entry.name for entry in (process / "fd").iterdir()))
    return Condition(
        (process / "stat").read_text().rpartition(")")[2].split()[19],
        {task.name: _thread(task) for task in (process / "task").iterdir()},
        descriptors,
    )


_KEPT = ("State", "TracerPid", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")


def _thread(task: Path) -> tuple[str, ...]:
    lines = (task / "status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    if fields["State"].strip()[0] in "RSDI":
        fields["State"] = "goes on"  # whether it sleeps at this moment is its own affair
    return tuple(fields[name].strip() for name in _KEPT if name in fields)


@contextlib.contextmanager
def unharmed(pid: int) -> Iterator[None]:
    """A process that stands still is, after the block, the same and in the same condition."""
    before = condition(pid)
    yield
    assert condition(pid) == before
