"""When to look again at a process in which now is not the moment."""

from __future__ import annotations

import time
from collections.abc import Iterator

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.1
"""Between two looks at a busy process; doubled each time."""


def moments(deadline_ns: int) -> Iterator[None]:
    """Moments to try at: at once, then after growing pauses, until the deadline (monotonic)."""
    pause_s = _FIRST_PAUSE_S
    yield
    while (left_ns := deadline_ns - time.monotonic_ns()) > 0:
        time.sleep(min(pause_s, left_ns / 1e9))
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        yield
