"""Which thread of the target may be stopped for a moment, best first.

Strategy: a thread that sleeps in a call which the kernel restarts unseen never learns of the stop.
epoll_wait, sigtimedwait and a few others return EINTR from any stop, so they come last. Threads
that wait uninterruptibly (a vfork in progress, a disk) would not stop and are left out.

Source: signal(7), "Interruption of system calls and library functions by stop signals"; the
-ERESTART* returns in the kernel's source.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from allocscope.act import task, vet
from allocscope.model.process import Mapping

_ENOUGH = 8
_ROOM_BYTES = 16 << 10

# Numbers of x86-64: read, poll, select, nanosleep, wait4, futex, clock_nanosleep, waitid, pselect6,
# ppoll.
_RESTARTED = frozenset({0, 7, 23, 35, 61, 202, 230, 247, 270, 271})
# pause, semop, sigtimedwait, sigsuspend, io_getevents, semtimedop, epoll_wait, epoll_pwait,
# io_pgetevents, io_uring_enter, epoll_pwait2: a stop makes them return EINTR, or may swallow a
# wake-up.
_NOTICE_IT = frozenset({34, 65, 128, 130, 208, 220, 232, 281, 333, 426, 441})
VFORKS = frozenset({56, 58, 435})  # clone, vfork, clone3
_BEST, _FAIR, _RUNNING, _NOTICING, _CRAMPED = range(5)


def stacks(mappings: Sequence[Mapping]) -> list[Mapping]:
    """Where a stack may lie: writable anonymous memory other than the brk heap. Ascending."""
    return [m for m in mappings if m.writable and m.readable and m.anonymous and m.path != "[heap]"]


def choose(pid: int, possible: Sequence[Mapping]) -> list[int]:
    """Numbers of threads that may be used, best first; not all of them where there are many.

    ``possible``: the result of ``stacks``. Raises Unsafe when there is none, NoSuchProcess.
    """
    starts = [m.start for m in possible]
    ranked: list[tuple[int, int]] = []
    reasons: set[str] = set()
    for tid, status, call in vet.threads(pid):
        reason = vet.unfit(status)
        if not reason and status.state == "D":
            reason = "vfork" if call and call[0] in VFORKS else "uninterruptible"
        if reason:
            reasons.add(reason)
            continue
        ranked.append((_rank(call, starts, possible), tid))
        if sum(rank == _BEST for rank, _ in ranked) == _ENOUGH:
            break
    if not ranked:
        raise vet.refuse_all(pid, reasons)
    return [tid for _, tid in sorted(ranked)]


def _rank(call: tuple[int, int] | None, starts: list[int], possible: Sequence[Mapping]) -> int:
    if call is None:
        return _RUNNING
    number, stack_pointer = call
    at = bisect.bisect_right(starts, stack_pointer) - 1
    if at < 0 or not possible[at].start + _ROOM_BYTES <= stack_pointer < possible[at].end:
        return _CRAMPED
    if number in _NOTICE_IT:
        return _NOTICING
    return _BEST if number in _RESTARTED else _FAIR


def describe(pid: int, tid: int) -> str:
    """For messages: the thread's number and name, escaped."""
    name = (task.read(pid, f"task/{tid}/comm") or "ended").strip()
    return f"{tid} ({ascii(name)[1:-1]})"
