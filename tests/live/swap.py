"""A little swap for the length of a test, where this machine has none: zram, else a file.

Rule: what was made is unmade, whatever happens in between; a machine that has swap is left alone.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

BYTES = 64 << 20
_CONTROL = Path("/sys/class/zram-control")


@contextlib.contextmanager
def swap() -> Iterator[None]:
    """Swap space. Skips the test where there is none and none can be made."""
    if Path("/proc/swaps").read_text().count("\n") > 1:
        yield
        return
    if os.geteuid():
        pytest.skip("needs CAP_SYS_ADMIN to make swap, and there is none")
    with contextlib.ExitStack() as made:
        for kind in (_zram, _file):
            try:
                area = made.enter_context(kind())
                _run("mkswap", area)
                _run("swapon", area)
            except (OSError, subprocess.SubprocessError):
                continue
            made.callback(_run, "swapoff", area)
            break
        else:
            pytest.skip("this kernel has no swap that a test could make (zram, file)")
        yield


@contextlib.contextmanager
def _zram() -> Iterator[Path]:
    number = (_CONTROL / "hot_add").read_text().strip()
    try:
        Path(f"/sys/block/zram{number}/disksize").write_text(str(BYTES))
        yield Path(f"/dev/zram{number}")
    finally:
        (_CONTROL / "hot_remove").write_text(number)


@contextlib.contextmanager
def _file() -> Iterator[Path]:
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        os.posix_fallocate(file.fileno(), 0, BYTES)
        yield Path(file.name)


def _run(*words: str | Path) -> None:
    subprocess.run(list(map(str, words)), check=True, capture_output=True, timeout=60)
