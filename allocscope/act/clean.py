"""Taking away what an allocscope that was killed has left below a process.

Strategy: only its parent can collect a zombie, so the target itself is made to, by a borrowed wait4
(as a snapshot does at its end): one thread is stopped for a fraction of a millisecond. A copy that
lives without a tracer is killed first, through a pidfd, after another look at its marks.

Rules: only what bears all the marks of a copy (leftovers.py) is touched; copies that somebody
traces belong to a run that is at work.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from allocscope.act import borrow, code, leftovers, vet
from allocscope.act.session import Session
from allocscope.immutable import immutable
from allocscope.proc import procfs


@immutable
class Cleaned:
    """Process numbers. ``killed``: lived, and were ended; ``collected``: are gone for good;
    ``left``: zombies that the target could not be made to collect. ``pause_ns``: how long its
    thread stood still."""

    killed: tuple[int, ...]
    collected: tuple[int, ...]
    left: tuple[int, ...]
    pause_ns: int


def clean(pid: int, deadline_ns: int) -> Cleaned:
    """Raises NoSuchProcess, PermissionRefused, MissingPart, and Unsafe where no thread of the
    target may be used: its leftovers then stay as they are."""
    killed = tuple(child for child in leftovers.abandoned(pid) if _end(child, deadline_ns))
    zombies = [zombie.pid for zombie in leftovers.find(pid)]
    if not zombies:
        return Cleaned(killed, (), (), 0)
    process = vet.vet(pid)
    mappings = procfs.mappings(pid)
    borrow.choose(pid, borrow.stacks(mappings))
    session = Session(pid, code.find(pid, mappings), mappings, deadline_ns)
    try:
        vet.same(process)
        pause_ns = session.collect_leftovers()
    finally:
        session.finish()
    left = {zombie.pid for zombie in leftovers.find(pid)}
    collected = tuple(number for number in zombies if number not in left)
    return Cleaned(killed, collected, tuple(sorted(left)), pause_ns)


def _end(child: int, deadline_ns: int) -> bool:
    """Kills it and sees it dead, if it is a copy still."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(child)
        try:
            if not leftovers.is_abandoned(child):
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            waiting = select.poll()
            waiting.register(handle, select.POLLIN)
            left_ms = max(0, (deadline_ns - time.monotonic_ns()) // 1_000_000)
            return bool(waiting.poll(left_ms))
        finally:
            os.close(handle)
    return False
