"""Makes a real, working glibc one that no layout fits, as a future one may be.

Bin 127 is never used, so every layout expects it to be linked to itself; zeros there contradict all
of them, while malloc_info passes over such a bin and goes on telling the truth.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from oracle import layout as layouts
from oracle import locate
from oracle.memory import Memory

BIN_BYTES = 16


@contextlib.contextmanager
def unknown(pid: int) -> Iterator[None]:
    """Process ``pid``, which must stand still, with a main_arena unlike any that is known; as it
    was, after the block."""
    with Memory(pid) as memory:
        layout = layouts.layout_for(locate.glibc_minor(pid))
        arena, _ = locate.from_bytes(memory, layout)
    last_bin = arena + layout.bins + (layouts.BINS - 1) * BIN_BYTES
    descriptor = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    try:
        before = os.pread(descriptor, BIN_BYTES, last_bin)
        os.pwrite(descriptor, bytes(BIN_BYTES), last_bin)
        try:
            yield
        finally:
            os.pwrite(descriptor, before, last_bin)
    finally:
        os.close(descriptor)
