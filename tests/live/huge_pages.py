"""Huge pages for a test, where this machine lets them be reserved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

POOL = Path("/proc/sys/vm/nr_hugepages")
SIZE = 2 << 20


@contextlib.contextmanager
def reserved(count: int) -> Iterator[None]:
    """At least ``count`` more of them for the block; afterwards as many as before. Skips where that
    is not allowed, or not to be had."""
    before = int(POOL.read_text())
    try:
        POOL.write_text(str(before + count))
    except OSError:
        pytest.skip("no huge pages can be reserved here: needs root (CAP_SYS_ADMIN)")
    try:
        if int(POOL.read_text()) < before + count:
            pytest.skip("no huge pages can be reserved here: memory is too fragmented")
        yield
    finally:
        POOL.write_text(str(before))
