"""``trim PID --apply --repeat``: a stopgap for a process that has to live on until it is mended.

Every so often the process is looked at, by reading only; where it holds more that is free than a
threshold says, it is trimmed and audited. A moment at which no thread can be used is told and
passed over: the next one may do. It ends when the process does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from allocscope.app.trim import TrimOptions
from allocscope.app.trim_apply import apply
from allocscope.errors import NoSuchProcess, PermissionRefused, Unsafe
from allocscope.immutable import immutable
from allocscope.model.failure import Failure
from allocscope.model.report import Report
from allocscope.model.trim import TrimData
from allocscope.proc import life, procfs

Outcome = Report[TrimData] | Failure

ENDING_S = 5.0
"""A process that ends refuses for a moment what it allowed before, and is gone well before this."""


@immutable
class Threshold:
    """Trim only where more is free and resident than ``above_bytes``, or than ``above_ratio`` of
    what the arenas have resident; and only where the forecast promises anything."""

    above_bytes: int | None = None
    above_ratio: float | None = None

    def exceeded(self, data: TrimData) -> bool:
        """Does the process hold so much?"""
        free = data.free_resident_bytes
        if self.above_bytes is not None and free <= self.above_bytes:
            return False
        if self.above_ratio is not None and free <= self.above_ratio * data.resident_bytes:
            return False
        return data.forecast.bytes > 0


def repeat(
    pid: int,
    options: TrimOptions,
    *,
    every_s: float,
    threshold: Threshold,
    watch_s: float | None = None,
) -> Iterator[tuple[float, Outcome]]:
    """One outcome for each look, with its time (seconds since 1970); a look begins every
    ``every_s`` seconds, or at once where the one before took longer. Ends when the process has
    ended.

    Raises what ``apply`` raises, but for Unsafe, which becomes a Failure; NoSuchProcess only where
    there was no such process to begin with."""
    with life.end_of(pid) as end:
        yield from _looks(pid, options, end, every_s, threshold, watch_s)


def _looks(
    pid: int,
    options: TrimOptions,
    end: int | None,
    every_s: float,
    threshold: Threshold,
    watch_s: float | None,
) -> Iterator[tuple[float, Outcome]]:
    """``end``: becomes readable when the process ends."""
    start_ticks: int | None = None
    due_ns = time.monotonic_ns()
    while True:
        ended = life.ended_within(end, (due_ns - time.monotonic_ns()) / 1e9)
        if ended and start_ticks is not None:
            return
        due_ns = max(due_ns + int(every_s * 1e9), time.monotonic_ns())
        now = time.time()
        try:
            report = apply(
                pid,
                options,
                watch_s=watch_s,
                only_if=threshold.exceeded,
                start_ticks=start_ticks,
            )
        except Unsafe as error:
            yield now, Failure(pid, "", error.message, error.hint, error.exit_code)
        except NoSuchProcess:
            if start_ticks is None:
                raise
            return
        except PermissionRefused:
            if start_ticks is None or not _is_ending(pid, start_ticks):
                raise
            return
        else:
            start_ticks = report.process.start_ticks
            yield now, report


def _is_ending(pid: int, start_ticks: int) -> bool:
    """Is a process that suddenly refuses on its way out? Waits for its end."""
    with life.end_of(pid) as end:
        if end is not None:
            life.ended_within(end, ENDING_S)
    try:
        found = procfs.stat(pid)
    except NoSuchProcess:
        return True
    return found.dead or found.start_ticks != start_ticks
