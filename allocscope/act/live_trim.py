"""malloc_trim, made by the live process itself: no debugger, no copy, no thread of ours in it.

Strategy: threads that look fit are tried one after the other, the least disturbed first
(trim_thread.py). The helper stops the one, looks again, and sends it through malloc_trim on a chain
of frames that leads back by itself (probes/src/act_trim.c); all others run on and wait for an
arena's lock at most as long as for any other malloc_trim. Where none is fit, another moment is
tried, until the deadline.

Rules: a thread that is not used is only stopped for the look. When malloc_trim has not returned by
the deadline, the thread is let go and completes it by itself: so does it when allocscope is killed.
"""

from __future__ import annotations

import errno
import functools
import time
from collections.abc import Sequence
from typing import Any

from allocscope.act import borrow, trim_plan, trim_thread, vet
from allocscope.act.moments import moments
from allocscope.act.tracer import Tracer, failure, has_ended
from allocscope.act.trim_thread import Candidate
from allocscope.errors import NoSuchProcess, Unsafe
from allocscope.glibc.locate import Located
from allocscope.model.libc import LibcImage
from allocscope.model.process import Mapping, Process
from allocscope.model.trim import LiveCall
from allocscope.native import ffi, lib
from allocscope.proc import procfs

_LONGEST_PAUSE_S = 0.01
"""Between two looks: a thread that rarely rests does so for a millisecond or two."""
_TRIES_PER_MOMENT = 4
_CLEAN_UP_NS = 3_000_000_000
_LEAST_NS = 1_000_000_000
"""What a try has that is begun just before the deadline."""
_LATER = (
    "Try again at a quieter moment, or give a longer --deadline. The forecast and the rehearsal "
    "need no such moment."
)


def trim(
    pid: int, image: LibcImage, located: Located, *, pad_bytes: int = 0, deadline_ns: int
) -> LiveCall:
    """Makes process ``pid`` call malloc_trim(``pad_bytes``), by ``deadline_ns`` (CLOCK_MONOTONIC).

    ``image`` and ``located``: its malloc, as ``find_malloc`` gives them. Raises NoSuchProcess (it
    ended or called exec, at whatever step), PermissionRefused, MissingPart, and Unsafe: no thread
    was fit by the deadline, and the process is as it was; or malloc_trim did not return by then,
    and the process completes it by itself, as the message says.
    """
    process = vet.vet_for_call(pid)
    mappings = procfs.mappings(pid)
    plan = trim_plan.make(pid, image, located, mappings, trim_thread.CALLS, pad_bytes)
    attempt = _Attempt(process, plan, borrow.stacks(mappings), deadline_ns)
    try:
        return attempt.until_done()
    finally:
        attempt.end()


class _Attempt:
    """``until_done`` once, then ``end`` in any case."""

    def __init__(
        self,
        process: Process,
        plan: trim_plan.Plan,
        stacks: Sequence[Mapping],
        deadline_ns: int,
    ) -> None:
        self._process = process
        self._pid = process.pid
        self._auxv = procfs.auxv(process.pid)
        self._plan = plan
        self._stacks = stacks
        self._deadline_ns = deadline_ns
        self._attached: set[int] = set()
        self._pause_ns = 0
        self._how: Any = ffi.new("as_outcome *")
        self._tracer = Tracer()

    def until_done(self) -> LiveCall:
        reasons: dict[int, str] = {}
        for _ in moments(self._deadline_ns, _LONGEST_PAUSE_S):
            self._refuse_other_program()
            vet.refuse_stopped(self._pid)
            candidates, unfit = trim_thread.choose(self._pid, self._stacks, self._plan.native)
            tried = {
                chosen.tid: reasons[chosen.tid] for chosen in candidates if chosen.tid in reasons
            }
            reasons = unfit | tried
            for chosen in candidates[:_TRIES_PER_MOMENT]:
                if time.monotonic_ns() > self._deadline_ns:
                    break
                work = functools.partial(self._try_there, chosen, reasons)
                done = self._tracer.run(work)
                if done is not None:
                    return done
        cost = f" (looking stopped threads for {self._pause_ns / 1e6:.1f} ms in all)"
        raise Unsafe(
            f"no thread of process {self._pid} could be made to call malloc_trim: "
            f"{self._listed(reasons)}{cost if self._pause_ns else ''}",
            _LATER,
        )

    def end(self) -> None:
        """Lets go of everything, whatever happened before."""
        deadline_ns = max(self._deadline_ns, time.monotonic_ns() + _CLEAN_UP_NS)
        self._tracer.end(self._attached, deadline_ns)

    def _try_there(self, chosen: Candidate, reasons: dict[int, str]) -> LiveCall | None:
        """In the tracer thread. None, with the reason noted, when this thread was not fit."""
        how = self._how
        plan = self._plan.native
        plan.signal, plan.inner_tid = chosen.signal, chosen.inner_tid
        duration_ns = ffi.new("uint64_t *")
        number = lib.as_trim(self._thread(chosen.tid), plan, how, duration_ns)
        if not how.released:
            self._attached.add(chosen.tid)
        self._pause_ns += how.pause_ns - duration_ns[0]
        if not number:
            return LiveCall(chosen.tid, duration_ns[0], self._pause_ns, how.result)
        early = how.step < lib.AS_AT_CALL
        if early and (number == errno.ESRCH or has_ended(chosen.tid)):
            reasons[chosen.tid] = "has ended"
            return None
        if how.step in _NOT_THIS_THREAD:
            reasons[chosen.tid] = trim_thread.phrase(how.step, number)
            return None
        if how.step == lib.AS_AT_CODE:
            self._refuse_other_program()
        raise self._failure(chosen.tid, how.step, number)

    def _refuse_other_program(self) -> None:
        """Raises NoSuchProcess. After an execve, even of the same program, nothing that was found
        out holds; the auxiliary vector tells, by the random places of program and stack."""
        procfs.same(self._process)
        if procfs.auxv(self._pid) != self._auxv:
            raise NoSuchProcess(f"process {self._pid} called exec meanwhile", "Ask again.")

    def _failure(self, tid: int, step: int, number: int) -> Exception:
        thread = borrow.describe(self._pid, tid)
        if step in (lib.AS_AT_FUNCTION, lib.AS_AT_RESTORE) and number == errno.ETIMEDOUT:
            return Unsafe(
                f"malloc_trim had not returned in thread {thread} of process {self._pid} by the "
                "deadline; the thread completes it and goes on by itself",
                "Look again later with `allocscope arenas`; give a longer --deadline next time.",
            )
        if step in (lib.AS_AT_FUNCTION, lib.AS_AT_RESTORE) and number == errno.ESRCH:
            return NoSuchProcess(
                f"thread {thread} of process {self._pid} ended while it ran malloc_trim",
                "The process, or another thread, ended or started another program meanwhile.",
            )
        return failure(self._pid, thread, step, number)

    def _thread(self, tid: int) -> Any:
        thread = ffi.new("as_thread *")
        thread.pid, thread.tid = self._pid, tid
        thread.deadline_ns = max(self._deadline_ns, time.monotonic_ns() + _LEAST_NS)
        thread.code.syscall_return = self._plan.code.syscall_return
        thread.code.restorer = self._plan.code.restorer
        self._native_stacks = ffi.new(
            "as_stack[]", [(m.start, m.end, m.path == "[stack]") for m in self._stacks]
        )
        thread.stacks, thread.stack_count = self._native_stacks, len(self._native_stacks)
        return thread

    def _listed(self, reasons: dict[int, str]) -> str:
        shown = [
            f"thread {borrow.describe(self._pid, tid)} {reason}"
            for tid, reason in list(reasons.items())[:3]
        ]
        more = f", and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        return "; ".join(shown) + more


_NOT_THIS_THREAD = (
    lib.AS_AT_PLACE,
    lib.AS_AT_FRAMES,
    lib.AS_AT_LOCKS,
    lib.AS_AT_STATE,
    lib.AS_AT_STACK,
    lib.AS_AT_WRITE,
)
