"""Programs of another machine, run by qemu's user-mode emulation, as the cores that it writes.

When a signal ends what it emulates, qemu writes a core of that: of the emulated machine, without
page states, file names or thread pointers. Its log of system calls tells what the threads told the
kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from glibcs import programs
from glibcs.fetch import Tree

SECONDS = 120
EMULATOR = "qemu-aarch64-static"


class Emulated(NamedTuple):
    """The core of a program at rest, what it said of itself, and its threads' robust lists."""

    core: Path
    truth: dict[str, Any]
    robust_lists: list[int]


@contextlib.contextmanager
def core_of(tree: Tree, program: Path, directory: Path, *arguments: str) -> Iterator[Emulated]:
    """Runs a program of the fixtures' protocol until it is ready, and ends it; the core is there
    for the length of the block. ``directory``: an empty one."""
    calls = directory / "calls"
    command = [EMULATOR, "-strace", "-D", str(calls), *programs.loader_of(tree), str(program)]
    with subprocess.Popen(
        [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=directory
    ) as process:
        assert process.stdout is not None
        resource.prlimit(process.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
        truth = json.loads(process.stdout.readline())["truth"]
        os.kill(process.pid, signal.SIGABRT)
        process.wait(SECONDS)
    [core] = directory.glob("qemu_*.core")
    lists = re.findall(r"set_robust_list\((\d+),", calls.read_text())
    try:
        yield Emulated(core, truth, [int(digits) for digits in lists])
    finally:
        for path in directory.iterdir():
            path.unlink()
