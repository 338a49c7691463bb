"""What is held of one target from the first stop to the last: the copy A, copies of it, the way
out.

Strategy: one object owns every process that was made, one thread (tracer.py) does all that touches
them. The helper fills in what exists before it returns, so the way out needs no result that an
interrupted wait could have lost.

Rule: methods ending in ``_there``, and those of Twin, run in the tracer thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from allocscope.act import borrow, code, leftovers
from allocscope.act.tracer import Tracer, failure
from allocscope.errors import AllocscopeError, NoSuchProcess, Unsafe
from allocscope.immutable import immutable
from allocscope.model.process import Mapping
from allocscope.native import ffi, lib
from allocscope.proc import procfs

_ATTEMPTS = 6
_CLEAN_UP_NS = 3_000_000_000


class Session:
    """``freeze`` once, then ``finish`` in any case."""

    def __init__(
        self, target: int, found: code.Code, mappings: Sequence[Mapping], deadline_ns: int
    ) -> None:
        self.target = target
        self.deadline_ns = deadline_ns
        self.lifetime_ns = 0
        self.tid = 0
        self._reaper = 0
        self._attached: set[int] = set()
        self.pause_ns = 0
        self.reap_pause_ns = 0
        self.zombie: int | None = None
        self.held: Any = ffi.new("as_held *")
        self.twins: list[Twin] = []
        self.tracer = Tracer()
        self._code = found
        self._use_stacks(mappings)

    def freeze(self, lifetime_ns: int) -> None:
        """Makes A, the one process that ``held`` then describes.

        Raises NoSuchProcess, PermissionRefused, Unsafe, MissingPart.
        """
        self.lifetime_ns = lifetime_ns
        candidates = borrow.choose(self.target, self._stacks)
        self.tracer.run(lambda: self._freeze_there(candidates))
        # If memory runs out, the kernel is to take the copy before anything else.
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.held.pid}/oom_score_adj").write_text("1000")

    def collect_leftovers(self) -> int:
        """Makes the target collect the zombies of an allocscope that was killed; for how many ns
        its threads stood still for it."""
        left = leftovers.find(self.target)
        if left:
            self.tracer.run(lambda: [self._reap_there(zombie.inner_pid) for zombie in left])
        pause_ns, self.reap_pause_ns = self.reap_pause_ns, 0
        return pause_ns

    def finish(self) -> None:
        """Leaves nothing behind, whatever happened before."""
        try:
            self.tracer.run(self._finish_there)
        finally:
            self.tracer.end(self._attached, self.clean_up_deadline_ns())

    def clean_up_deadline_ns(self) -> int:
        """The way out has time of its own."""
        return max(self.deadline_ns, time.monotonic_ns() + _CLEAN_UP_NS)

    def _freeze_there(self, candidates: Sequence[int]) -> None:
        how = ffi.new("as_outcome *")
        number = errno.ESRCH
        for self.tid in candidates[:_ATTEMPTS]:
            thread = self._thread(self.tid, self.deadline_ns)
            number = lib.as_freeze(thread, self.held, how)
            self.pause_ns = how.pause_ns
            self._note(self.tid, how)
            if not number or self.held.inner_pid or not how.released:
                break
            if how.step not in _WORTH_ANOTHER_THREAD:
                break
        if not number:
            how.step = lib.AS_AT_COPY
            number = lib.as_shelter(self.held, self.lifetime_ns, self.deadline_ns)
        if number:
            raise failure(self.target, borrow.describe(self.target, self.tid), how.step, number)

    def _finish_there(self) -> None:
        for twin in tuple(self.twins):
            twin.end()
        if self.held.pid:
            lib.as_kill(self.held.pid, self.clean_up_deadline_ns())
        if self.held.inner_pid and not self._reap_there(self.held.inner_pid):
            self.zombie = self.held.pid

    def _reap_there(self, inner_pid: int) -> bool:
        """True when the zombie is gone: collected by the target, or together with it."""
        if self._reaper and self._collected(self._reaper, inner_pid):
            return True
        try:
            mappings = procfs.mappings(self.target)
            self._code = code.find(self.target, mappings)  # it may have called exec meanwhile
            self._use_stacks(mappings)
            others = borrow.choose(self.target, self._stacks)
        except NoSuchProcess:
            return True
        except AllocscopeError:
            return False
        return any(self._collected(tid, inner_pid) for tid in others[:_ATTEMPTS])

    def _collected(self, tid: int, inner_pid: int) -> bool:
        how = ffi.new("as_outcome *")
        thread = self._thread(tid, self.clean_up_deadline_ns())
        number = lib.as_reap(thread, inner_pid, how)
        self.reap_pause_ns += how.pause_ns
        self._note(tid, how)
        return number in (0, errno.ECHILD)

    def _note(self, tid: int, how: Any) -> None:
        """A thread that could be let go is good for the next call; another waits for finish()."""
        if how.released:
            self._reaper = tid
        else:
            self._attached.add(tid)

    def _use_stacks(self, mappings: Sequence[Mapping]) -> None:
        self._stacks = borrow.stacks(mappings)
        self._native_stacks: Any = ffi.new(
            "as_stack[]", [(m.start, m.end, m.path == "[stack]") for m in self._stacks]
        )

    def _thread(self, tid: int, deadline_ns: int) -> Any:
        thread = ffi.new("as_thread *")
        thread.pid, thread.tid, thread.deadline_ns = self.target, tid, deadline_ns
        thread.code.syscall_return = self._code.syscall_return
        thread.code.restorer = self._code.restorer
        thread.stacks, thread.stack_count = self._native_stacks, len(self._native_stacks)
        return thread


_WORTH_ANOTHER_THREAD = (
    lib.AS_AT_SEIZE,
    lib.AS_AT_STOP,
    lib.AS_AT_STATE,
    lib.AS_AT_STACK,
    lib.AS_AT_WRITE,
)


@immutable
class TwinState:
    """What ``Twin.make`` found out: B's pid, the lock words that were not 0, and stderr's lock."""

    pid: int
    locks_held: tuple[int, ...]
    stderr_locked: bool


@immutable
class Called:
    """What a function returned, and how long it ran."""

    result: int
    duration_ns: int


class Twin:
    """The life of one B."""

    def __init__(
        self,
        session: Session,
        lock_words: tuple[int, ...],
        stderr_variable: int | None,
        stderr_file: int | None,
        *,
        mlocked: Sequence[int] = (),
        kept: bool = False,
    ) -> None:
        """``mlocked``: start, end, start, end, …; ``kept``: it stays traced, for ``call``."""
        self._session = session
        self._lock_words = lock_words
        self._stderr = (stderr_variable or 0, stderr_file or 0)
        self._mlocked = mlocked
        self._kept = kept
        self._pid: Any = ffi.new("int *")
        self._inner_pid: Any = ffi.new("int *")

    def make(self) -> TwinState:
        """Raises Unsafe."""
        session = self._session
        session.twins.append(self)
        locks = ffi.new("uint64_t[]", self._lock_words)
        held_locks = ffi.new("uint8_t[]", len(locks))
        stderr_locked = ffi.new("int *")
        plan = ffi.new("as_twin_plan *")
        plan.lifetime_ns = session.lifetime_ns
        plan.locks, plan.lock_count = locks, len(locks)
        plan.stderr_variable, plan.stderr_file = self._stderr
        mlocked = ffi.new("uint64_t[]", self._mlocked)
        plan.mlocked, plan.mlocked_count = mlocked, len(mlocked)
        plan.keep = self._kept
        number = lib.as_make_twin(
            session.held,
            plan,
            session.deadline_ns,
            self._pid,
            self._inner_pid,
            held_locks,
            stderr_locked,
        )
        if number:
            raise Unsafe(
                f"the snapshot of process {session.target} could not be copied: "
                f"{os.strerror(number)}",
                "A limit on memory or processes may be reached, or the --deadline; try again.",
            )
        held = zip(self._lock_words, held_locks, strict=True)
        return TwinState(
            pid=self._pid[0],
            locks_held=tuple(word for word, was_held in held if was_held),
            stderr_locked=bool(stderr_locked[0]),
        )

    def call(self, function: int, argument: int) -> Called:
        """Makes B, which was kept, call ``function(argument)``. Raises Unsafe where that did not
        return; B is of no use then."""
        session, called = self._session, ffi.new("as_called *")
        number = lib.as_call_twin(
            session.held, self._pid[0], function, argument, session.deadline_ns, called
        )
        if number == errno.ECANCELED:
            raise Unsafe(
                f"the call ended by {signal.Signals(called.signal).name} in the copy of process "
                f"{session.target}: in the process itself it would do the same",
                "Its heap is damaged, or was being changed at that instant: try again.",
            )
        if number:
            raise Unsafe(
                f"the call did not return in the copy of process {session.target}: "
                f"{os.strerror(number)}",
                "Its heap may be damaged, or the machine busy: give a longer --deadline.",
            )
        return Called(int(called.result), int(called.duration_ns))

    def end(self) -> None:
        """Kills B and makes A collect it. Nothing to do the second time."""
        session = self._session
        if self in session.twins:
            session.twins.remove(self)
            if self._pid[0]:
                deadline_ns = session.clean_up_deadline_ns()
                lib.as_end_twin(session.held, self._pid[0], self._inner_pid[0], deadline_ns)
