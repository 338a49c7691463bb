"""Cores of running programs, in both ways that there are: gdb's, of a process that lives on, and
the kernel's, of one that dies."""

from __future__ import annotations

import os
import resource
import select
import signal
import subprocess
from pathlib import Path

import pytest

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
SECONDS = 120


def gdbs_core(pid: int, directory: Path) -> Path:
    """The core that gdb writes; the process lives on."""
    path = directory / f"core.{pid}"
    words = ["gdb", "--nx", "-batch", "-p", str(pid), "-ex", f"generate-core-file {path}"]
    subprocess.run(words, capture_output=True, check=True, timeout=SECONDS)
    return path


def kernels_core(pid: int, directory: Path) -> Path:
    """The core that the kernel writes when the process ends by SIGABRT. ``directory``, still empty,
    must be its working directory. Skips where the kernel gives cores to a program."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    if pattern.startswith("|") or "/" in pattern:
        pytest.skip(f"this kernel has no core files here: core_pattern is {pattern.strip()}")
    resource.prlimit(pid, resource.RLIMIT_CORE, UNLIMITED)
    ended = os.pidfd_open(pid)
    os.kill(pid, signal.SIGABRT)
    assert select.select([ended], [], [], SECONDS)[0]
    os.close(ended)
    [path] = directory.iterdir()
    return path
