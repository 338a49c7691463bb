"""Which threads of a process may be made to call malloc_trim now, as far as that is seen without a
stop, best first.

Strategy: a thread that sleeps in one of a few system calls in which malloc never waits (but for a
lock, which its stack tells), on an ordinary stack without a signal handler. Calls that the kernel
restarts unseen come first; those that return EINTR from any stop come last. The helper looks again
when the thread stands still, and only that look counts.

Rules: a thread under a seccomp filter, with a shadow stack or a tracer is never used. While a
thread waits for a vfork child nobody is: the child lives in the same memory. Each thread needs a
signal that is open to it, that nothing handles and that is not pending: by its arrival the helper
knows that the call is done.

Source: signal(7), "Interruption of system calls and library functions by stop signals".
"""

from __future__ import annotations

import errno
import os
import signal
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from allocscope.act import borrow, task, vet
from allocscope.immutable import immutable
from allocscope.model.process import Mapping
from allocscope.native import lib

# Numbers of x86-64: read, poll, select, nanosleep, wait4, futex, restart_syscall, clock_nanosleep,
# waitid, pselect6, ppoll.
_RESTARTED = (0, 7, 23, 35, 61, 202, 219, 230, 247, 270, 271)
# accept, recvfrom, recvmsg, accept4: with a time-out on the socket a stop makes them return EINTR.
_SOMETIMES = (43, 45, 47, 288)
# pause, rt_sigtimedwait, rt_sigsuspend, epoll_wait, epoll_pwait, epoll_pwait2: EINTR, or a wake-up
# that may be missed.
_NOTICED = (34, 128, 130, 232, 281, 441)
CALLS = (*_RESTARTED, *_SOMETIMES, *_NOTICED)
"""Where a thread may be used, the least disturbing first."""

_RANK = {number: index for index, group in enumerate((_RESTARTED, _SOMETIMES, _NOTICED))
         for number in group}  # fmt: skip
_SIGNALS = (signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD)
"""Ignored by default."""
_CLOSED = ("SigBlk", "SigCgt", "SigPnd", "ShdPnd")


_ON_STACK = {
    errno.EDEADLK: "waits for a lock of malloc's",
    errno.EINTR: "runs a signal handler",
    errno.E2BIG: "has a stack too deep to look through",
}
_AT_STEP = {
    lib.AS_AT_STOP: "never left its restartable sequences",
    lib.AS_AT_STATE: "runs 32-bit code or handles its own system calls",
    lib.AS_AT_STACK: "stands on no ordinary stack, or has no room left on it",
    lib.AS_AT_WRITE: "stands on a stack that cannot be written to",
    lib.AS_AT_PLACE: "went on meanwhile",
    lib.AS_AT_LOCKS: "waited in vain for the lock of an arena to be free",
}


@immutable
class Candidate:
    """``signal``: open to the thread, handled by nobody. ``inner_tid``: its number in its own pid
    namespace."""

    tid: int
    inner_tid: int
    signal: int


def choose(
    pid: int, stacks: Sequence[Mapping], native_plan: Any
) -> tuple[list[Candidate], dict[int, str]]:
    """The threads to try, best first, and why the others are not among them, a phrase each.

    ``stacks``: the result of ``borrow.stacks``. Raises NoSuchProcess; Unsafe where no waiting would
    help: all threads are filtered, traced or have a shadow stack.
    """
    starts = [m.start for m in stacks]
    ranked: list[tuple[int, Candidate]] = []
    reasons: dict[int, str] = {}
    unfit: set[str] = set()
    for tid, status, call in vet.threads(pid):
        reason = vet.unfit(status)
        if reason:
            unfit.add(reason)
            continue
        if status.state == "D" and call and call[0] in borrow.VFORKS:
            return [], {tid: "waits for a vfork child"}
        opened = _open_signal(tid)
        reason = _why_not(pid, call, starts, stacks, native_plan) if call else "runs"
        if not reason and not opened:
            reason = "has none of SIGURG, SIGWINCH, SIGCHLD unblocked and without a handler"
        if reason:
            reasons[tid] = reason
        elif call:
            ranked.append((_RANK[call[0]], Candidate(tid, status.ns_pid[-1], opened)))
    if unfit and not ranked and not reasons:
        raise vet.refuse_all(pid, unfit)
    return [candidate for _, candidate in sorted(ranked, key=lambda item: item[0])], reasons


def phrase(step: int, number: int) -> str:
    """Why a thread was left alone, from the helper's ``step`` and errno."""
    if number == errno.ESRCH:
        return "has ended"
    if step == lib.AS_AT_FRAMES and number in _ON_STACK:
        return _ON_STACK[number]
    return _AT_STEP.get(step, os.strerror(number))


def _why_not(
    pid: int,
    call: tuple[int, int],
    starts: Sequence[int],
    stacks: Sequence[Mapping],
    native_plan: Any,
) -> str:
    number, stack_pointer = call
    if number not in _RANK:
        return f"is in system call {number}" if number >= 0 else "stands still outside of any call"
    at = bisect_right(starts, stack_pointer) - 1
    if at < 0 or stack_pointer >= stacks[at].end:
        return "stands on no ordinary stack"
    found = lib.as_look(pid, number, stack_pointer, stacks[at].end, native_plan)
    return phrase(lib.AS_AT_FRAMES, found) if found else ""


def _open_signal(tid: int) -> int:
    """0 when there is none, or the thread has ended."""
    lines = (line.partition(":") for line in (task.read(tid, "status") or "").split("\n"))
    closed = 0
    for name, _, value in lines:
        if name in _CLOSED:
            closed |= int(value, 16)
    return next((number for number in _SIGNALS if not closed >> (number - 1) & 1), 0)
