"""Making glibc speak in the live process itself, as people do by hand with gdb, but guarded.

Strategy: find a moment at which no thread is inside malloc (:mod:`allocscope.act.guard`), stop all
threads with gdb, look again now that they stand still, and let the main thread alone make the calls
(:mod:`allocscope.act.live_calls`). Where the second look says no, the process is let go at once and
another moment is tried, until the deadline.

Rules: the process is let go on every path. It is never stopped as long as the first look, which
stops nothing, says no: a lock that is held for good costs the target nothing. What attempts in vain
may cost it is bounded. An attempt that began before the deadline has a second of its own, so that
the last look counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from allocscope.act import guard as guarding
from allocscope.act import live_calls
from allocscope.act.gdb import ATTACH_NS, Gdb, Late
from allocscope.act.guard import Guard
from allocscope.act.moments import moments
from allocscope.errors import Unsafe
from allocscope.model.glibc_says import What
from allocscope.proc import procfs

SYMBOLS = tuple({*guarding.SYMBOLS, *live_calls.SYMBOLS})
"""What ``symbols`` must hold."""

_LONGEST_PAUSE_S = 0.1
_LEAST_NS = 1_000_000_000
"""What an attempt has that is begun just before the deadline."""

SNAPSHOT_INSTEAD = (
    "Ask without --live: glibc then answers in a snapshot, which needs no such moment."
)


class Said(NamedTuple):
    """What glibc wrote, and for how many ns in all the process was stopped for it, including
    attempts that were given up."""

    xml: bytes | None
    text: bytes | None
    pause_ns: int


def ask(
    gdb: Gdb,
    pid: int,
    symbols: Mapping[str, int],
    arenas_of: Callable[[], tuple[int, ...]],
    what: What,
    *,
    max_pause_ns: int,
    deadline_ns: int,
) -> Said:
    """malloc_info's XML and malloc_stats' text, made by process ``pid`` itself.

    ``arenas_of`` tells the addresses of its malloc_states now, main_arena first. Once attempts in
    vain have stopped the process for ``max_pause_ns`` in all, there is no further one. Raises
    Unsafe, with the process as it was, when no safe moment came before that or before
    ``deadline_ns`` (monotonic clock), or when the process must not be stopped at all; otherwise as
    :meth:`Gdb.attach` does.
    """
    _refuse_unsuitable(pid)
    pause_ns = 0
    reasons: tuple[str, ...] = ()
    with Guard(pid, symbols, arenas_of) as guard:
        for _ in moments(deadline_ns, _LONGEST_PAUSE_S):
            found = guard.reasons(stopped=False)
            if found:
                reasons = found
                continue
            if time.monotonic_ns() > deadline_ns:
                break
            gdb.grant(_LEAST_NS)
            _rehearse(gdb, pid)
            began_ns = time.monotonic_ns()
            try:
                _attach(gdb, pid)
                gdb.grant(_LEAST_NS)
                reasons = guard.reasons(stopped=True)
                answer = None if reasons else live_calls.make(gdb, pid, symbols, guard.arenas, what)
            finally:
                gdb.release()
                pause_ns += time.monotonic_ns() - began_ns
            if answer is not None:
                return Said(*answer, pause_ns)
            if pause_ns >= max_pause_ns:
                break
    if not reasons:
        raise _too_late(pid)
    cost = f" (attempts stopped it for {pause_ns / 1e6:.1f} ms in all)" if pause_ns else ""
    raise Unsafe(
        f"glibc cannot be asked in process {pid} itself: {_listed(reasons)}{cost}",
        SNAPSHOT_INSTEAD,
    )


def _rehearse(gdb: Gdb, pid: int) -> None:
    try:
        gdb.rehearse()
    except Late as error:
        raise _too_late(pid) from error


def _too_late(pid: int) -> Unsafe:
    return Unsafe(
        f"the deadline came before gdb was ready, and process {pid} was not stopped",
        "Give it more time with --deadline.",
    )


def _attach(gdb: Gdb, pid: int) -> None:
    """Errors as :meth:`Gdb.attach`; Unsafe, with what may be the matter, where that took too
    long."""
    try:
        gdb.attach(pid)
    except Late as error:
        raise Unsafe(
            f"gdb could not stop all threads of process {pid} within {ATTACH_NS // 10**9} s and "
            "was ended: one of them waits uninterruptibly, perhaps for a vfork child, or the "
            "machine is very busy; the process goes on as before",
            SNAPSHOT_INSTEAD,
        ) from error


def _refuse_unsuitable(pid: int) -> None:
    """What no waiting would cure. Raises Unsafe."""
    if pid == os.getpid():
        raise Unsafe("allocscope cannot stop itself", SNAPSHOT_INSTEAD)
    status = procfs.status(pid)
    if status.state == "T":
        raise Unsafe(f"process {pid} is stopped (SIGSTOP)", f"Continue it, or: {SNAPSHOT_INSTEAD}")
    if status.seccomp:
        raise Unsafe(
            f"process {pid} has a seccomp filter, which may kill it for a call that is not its own",
            "Read it without asking glibc.",
        )
    if status.shadow_stack:
        raise Unsafe(
            f"process {pid} has a shadow stack, which a call by gdb would violate",
            "Read it without asking glibc.",
        )


def _listed(reasons: tuple[str, ...]) -> str:
    more = f", and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    return "; ".join(reasons[:3]) + more
