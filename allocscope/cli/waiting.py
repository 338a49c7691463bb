"""Waiting for a time that events can cut short."""

from __future__ import annotations

import select
import time
from collections.abc import Collection


def wait(seconds: float, readable: Collection[int], closing: Collection[int] = ()) -> set[int]:
    """Waits until one of ``readable`` has something to read (or is at its end), until nobody reads
    one of ``closing`` any more, or so many seconds. Returns the descriptors that ended the wait.

    A signal whose handler raises ends it, too."""
    poll = select.poll()
    for descriptor in closing:
        poll.register(descriptor, 0)  # an error, as of a pipe without a reader, is always told
    for descriptor in readable:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(max(0.0, seconds) * 1000)}


def until(moment: float) -> float:
    """Seconds until a moment (time.monotonic), at least 0."""
    return max(0.0, moment - time.monotonic())
