"""What the benchmarks share: the target, a stopwatch, and how a figure is put beside its limit.

Rules: each ratio comes from one run, its two sides measured alternately, so that a busy machine
slows both; the median of each side counts; what was measured is in the answer, not only the ratio.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ALLOCSCOPE = [str(Path(sys.executable).parent / "allocscope")]
CALL_MALLOC_INFO = "call (int)malloc_info(0,(void*)stdout)"
ROUNDS = 5
SECONDS = 120


class Target:
    """tests/bench/target.c, running. Its answers are whole numbers."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = self._answer("ready")

    def ask(self, command: str, key: str) -> int:
        """Sends one command and returns the figure that the answer holds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return self._answer(key)

    def longest_stop_ns(self, action: Callable[[], object]) -> int:
        """How long a thread of the target, which never waits, stood still at most meanwhile."""
        self.ask("reset", "reset")
        action()
        return self.ask("gap", "gap_ns")

    def _answer(self, key: str) -> int:
        assert self._process.stdout is not None
        return int(json.loads(self._process.stdout.readline())[key])


@contextlib.contextmanager
def target(threads: int, mib: int) -> Iterator[Target]:
    """A process of ``threads`` + 1 arenas that hold ``mib`` MiB of chunks, half of them freed."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "target"
        flags = ["-std=gnu11", "-O2", "-pthread"]
        subprocess.run(["gcc", *flags, str(HERE / "target.c"), "-o", str(program)], check=True)
        with subprocess.Popen(
            [program, str(threads), str(mib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            yield Target(process)


def run(*command: str) -> None:
    """Runs a command with its output thrown away; it must succeed."""
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=SECONDS,
        check=True,
    )


def answer_of(*arguments: str) -> dict[str, Any]:
    """The JSON that an allocscope command prints."""
    done = subprocess.run(
        [*ALLOCSCOPE, *arguments, "--json"], capture_output=True, timeout=SECONDS, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


NO_SYMBOLS = ("-iex", "set debug-file-directory /nowhere")
"""As on a machine without libc6-dbg: gdb finds debug symbols by this directory."""


def plain_gdb(pid: int, *options: str) -> None:
    """What people do by hand."""
    run("gdb", "--batch", *options, "-p", str(pid), "-ex", CALL_MALLOC_INFO)


def seconds(action: Callable[[], object]) -> float:
    """How long something takes by the wall clock."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def processor_seconds(action: Callable[[], object]) -> float:
    """How long this process, with all its threads, kept processors busy for something."""
    begun = time.process_time()
    action()
    return time.process_time() - begun


def medians(*measurements: Callable[[], float], rounds: int = ROUNDS) -> list[float]:
    """The median of each measurement, all of them taken in turn, once before it counts."""
    rows = [[measure() for measure in measurements] for _ in range(rounds + 1)]
    return [statistics.median(column) for column in zip(*rows[1:], strict=True)]


def at_most(value: float, limit: float, **details: object) -> dict[str, object]:
    """A figure that should not be above its limit."""
    return {"value": round(value, 4), "at_most": limit, "met": value <= limit, **details}


def at_least(value: float, limit: float, **details: object) -> dict[str, object]:
    """A figure that should not be below its limit."""
    return {"value": round(value, 4), "at_least": limit, "met": value >= limit, **details}
