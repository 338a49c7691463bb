"""When to look again at a process in which now is not the moment."""

from __future__ import annotations

import time
from collections.abc import Iterator

_FIRST_PAUSE_S = 0.002


def moments(deadline_ns: int, longest_pause_s: float) -> Iterator[None]:
    """Moments to try at: at once, then after pauses that double up to the longest, until the
    deadline (CLOCK_MONOTONIC)."""
    pause_s = _FIRST_PAUSE_S
    yield
    while (left_ns := deadline_ns - time.monotonic_ns()) > 0:
        time.sleep(min(pause_s, left_ns / 1e9))
        pause_s = min(pause_s * 2, longest_pause_s)
        yield
