"""Huge pages for a test, where this machine lets them be reserved.

The pool is the machine's. Whoever sets it holds a lock meanwhile: of two test runs side by side,
one would restore what the other had set, and the pages would stay.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

POOL = Path("/proc/sys/vm/nr_hugepages")
SIZE = 2 << 20


@contextlib.contextmanager
def reserved(count: int) -> Iterator[None]:
    """At least ``count`` more of them for the block, or none at all for 0; afterwards as many as
    before. Skips where that is not allowed, or not to be had."""
    with POOL.open() as pool:
        fcntl.flock(pool, fcntl.LOCK_EX)
        before = int(POOL.read_text())
        wanted = before + count if count else 0
        try:
            _set(wanted, before)
            yield
        finally:
            if int(POOL.read_text()) != before:
                POOL.write_text(str(before))


def _set(wanted: int, before: int) -> None:
    if wanted == before:
        return
    try:
        POOL.write_text(str(wanted))
    except OSError:
        pytest.skip("no huge pages can be reserved here: needs root (CAP_SYS_ADMIN)")
    found = int(POOL.read_text())
    if found < wanted:
        pytest.skip("no huge pages can be reserved here: memory is too fragmented")
    if found > wanted:
        pytest.skip("no huge pages can be reserved here: those that there are, are in use")
