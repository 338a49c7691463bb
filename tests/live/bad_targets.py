"""Processes of which `arenas` can say little or nothing: built, started, and ended unharmed.

Rule: each stands still while it is looked at, and proves afterwards that it still runs: it ends by
itself, with status 0, when its stdin ends.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from live.cli import unharmed
from live.steady import TARGETS, wait_state

from allocscope.lab.child import child

PATIENCE_S = 20.0
NOBODY = 65534


def built(directory: Path, source: str, *compiler: str) -> str:
    """The program targets/``source``.c, made by ``compiler`` (gcc by default) with its options.
    Skips where that compiler is not installed."""
    command = compiler or ("gcc",)
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} not installed")
    program = directory / "-".join([source, *command]).replace("/", "")
    subprocess.run([*command, str(TARGETS / f"{source}.c"), "-O2", "-o", str(program)], check=True)
    return str(program)


@contextlib.contextmanager
def standing(
    command: Sequence[str], state: str = "S", environment: Mapping[str, str] | None = None
) -> Iterator[int]:
    """The pid of a program that said "ready", or the pid that a program printed; for the length of
    the block nothing may change it."""
    with child(command, environment) as started:
        said = started.line(PATIENCE_S)
        pid = started.pid if said == "ready" else int(said)
        wait_state(pid, state)
        with unharmed(pid):
            yield pid
    assert started.process.returncode == 0


def preloadable(name: str) -> str:
    """The path of a library that the loader would find by ``name``. Skips where there is none."""
    for directory in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"):
        path = Path(directory) / name
        if path.exists():
            return str(path)
    pytest.skip(f"{name} not installed")
