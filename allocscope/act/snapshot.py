"""The frozen copy of a running process: made in one short stop, read at leisure, gone without a
trace.

Strategy: vet, forecast, choose a thread, let it clone (probes/include/act.h). The copy A is traced
by us, never runs and dies with us; it is read like any process, through /proc/A and
process_vm_readv. ``disposable`` gives B, a copy of A, for a debugger. At the end both are killed,
and the target collects A by one more borrowed call, so that no zombie stays.

Rules: nothing is kept on any way out, errors and Ctrl-C included; where our own death intervenes,
what is left is a zombie, which the next run finds (leftovers.py). Signals such as SIGCHLD are never
caused in the target. Known limits: mappings that the target has marked MADV_DONTFORK are missing in
the copy; the times of the copy count as the target's children's times.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from allocscope._probes import ffi, lib
from allocscope.act import borrow, code, leftovers, task
from allocscope.act import forecast as forecasts
from allocscope.act.tracer import Tracer, failure, wait_released
from allocscope.act.vet import vet
from allocscope.errors import AllocscopeError, InternalError, NoSuchProcess, Unsafe
from allocscope.model.process import Mapping

MAX_PAUSE_NS = 100_000_000
LIFETIME_S = 60
_ATTEMPTS = 6
_CLEAN_UP_NS = 3_000_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class CopyPlan:
    """What has to be put right in a copy before anything is called in it; addresses in the target.

    ``lock_words``: 4-byte arena mutexes, zeroed. ``stderr_variable``: libc's variable ``stderr``;
    ``stderr_file``: _IO_2_1_stderr_; None leaves the stream alone.
    """

    lock_words: tuple[int, ...]
    stderr_variable: int | None
    stderr_file: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """B: a stopped process (SIGSTOP) that nobody traces; it exits if anything lets it run, and dies
    with A.

    ``output_path`` is the file behind its descriptor 2, its only one. ``locks_held``: the lock
    words that were not 0.
    """

    pid: int
    output_path: str
    locks_held: tuple[int, ...]
    stderr_locked: bool


class Snapshot:
    """The frozen copy ``pid`` of ``target_pid``; made by ``frozen``, valid inside its ``with``
    block.

    ``tid``: the thread that was stopped for it; ``pause_ns``: for how long, measured from the
    request to stop until it was let go. ``reap_pause_ns``: the second stop, at the end, 0 before.
    ``zombie``: the copy's pid if the target could not be made to collect it, else None.
    """

    def __init__(self, session: _Session, forecast: forecasts.Forecast) -> None:
        self._session = session
        self.forecast = forecast
        self.pid: int = session.held.pid
        self.target_pid = session.target
        self.tid = session.tid
        self.pause_ns = session.pause_ns

    @property
    def reap_pause_ns(self) -> int:
        return self._session.reap_pause_ns

    @property
    def zombie(self) -> int | None:
        return self._session.zombie

    @contextlib.contextmanager
    def disposable(self, plan: CopyPlan) -> Iterator[Copy]:
        """A copy of the copy, for a debugger; killed at the end, so let the debugger go before.

        Raises Unsafe when the kernel refuses it.
        """
        twin = _Twin(self._session, plan)
        try:
            yield self._session.tracer.run(twin.make)
        finally:
            self._session.tracer.run(twin.end)


@contextlib.contextmanager
def frozen(
    pid: int,
    *,
    max_pause_ns: int = MAX_PAUSE_NS,
    deadline_ns: int,
    forecast: forecasts.Forecast | None = None,
    lifetime_s: int = LIFETIME_S,
) -> Iterator[Snapshot]:
    """A frozen copy of ``pid``, which goes on meanwhile. ``deadline_ns``: CLOCK_MONOTONIC; the copy
    dies after ``lifetime_s``.

    Raises NoSuchProcess, PermissionRefused, Unsafe (refused, or not possible in time; the target is
    as it was), MissingPart. Not for several threads at a time on the same target.
    """
    start_ticks = vet(pid)
    expected = forecast or forecasts.forecast_of(pid)
    forecasts.refuse(pid, expected, max_pause_ns)
    mappings = task.mappings(pid)
    session = _Session(pid, code.find(pid, mappings), mappings, deadline_ns)
    try:
        session.collect_leftovers()
        session.freeze(start_ticks, lifetime_s)
        yield Snapshot(session, expected)
    finally:
        session.finish()


class _Session:
    """What the tracer thread holds of one target. Methods ending in ``_there`` run in that
    thread."""

    def __init__(
        self, target: int, found: code.Code, mappings: Sequence[Mapping], deadline_ns: int
    ) -> None:
        self.target = target
        self.tid = 0
        self.pause_ns = 0
        self.reap_pause_ns = 0
        self.zombie: int | None = None
        self.tracer = Tracer()
        self.deadline_ns = deadline_ns
        self.lifetime_ns = 0
        self.held: Any = ffi.new("as_held *")
        self.twins: list[_Twin] = []
        stacks = borrow.stacks(mappings)
        self._mappings = mappings
        self._stacks: Any = ffi.new(
            "as_stack[]", [(m.start, m.end, m.path == "[stack]") for m in stacks]
        )
        self._code = (found.syscall_return, found.restorer)

    def freeze(self, start_ticks: int, lifetime_s: int) -> None:
        self.lifetime_ns = lifetime_s * 1_000_000_000
        candidates = borrow.choose(self.target, self._mappings)
        self.tracer.run(lambda: self._freeze_there(candidates))
        if task.stat(self.target).start_ticks != start_ticks:
            raise NoSuchProcess(
                f"process {self.target} has ended, and its number now belongs to another one"
            )
        # Its own memory is safe to lose: if memory runs out, the kernel is to take the copy first.
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.held.pid}/oom_score_adj").write_text("1000")

    def _freeze_there(self, candidates: Sequence[int]) -> None:
        how = ffi.new("as_outcome *")
        number = errno.ESRCH
        for tid in candidates[:_ATTEMPTS]:
            self.tid = tid
            number = lib.as_freeze(self._thread(tid, self.deadline_ns), self.held, how)
            self.pause_ns = how.pause_ns
            if not number:
                break
            if self.held.inner_pid or not how.released or how.step not in _WORTH_ANOTHER_THREAD:
                break
        if number:
            raise failure(self.target, borrow.describe(self.target, self.tid), how.step, number)
        number = lib.as_shelter(self.held, self.lifetime_ns, self.deadline_ns)
        if number:
            raise InternalError(
                f"the copy of process {self.target} could not be set apart: {os.strerror(number)}"
            )

    def collect_leftovers(self) -> None:
        left = leftovers.find(self.target)
        if left:
            self.tracer.run(lambda: [self._reap_there(zombie.inner_pid) for zombie in left])

    def finish(self) -> None:
        """Leaves nothing behind. Also after a failed or interrupted start."""
        try:
            self.tracer.run(self._finish_there)
        finally:
            self.tracer.end()
            if self.tid and task_exists(self.target):
                wait_released(self.target, self.tid, time.monotonic_ns() + _CLEAN_UP_NS)

    def _finish_there(self) -> None:
        for twin in list(self.twins):
            twin.end()
        if self.held.pid:
            lib.as_kill(self.held.pid, self.clean_up_deadline())
        if self.held.inner_pid and not self._reap_there(self.held.inner_pid):
            self.zombie = self.held.pid

    def _reap_there(self, inner_pid: int) -> bool:
        """True when the zombie is gone: collected by the target, or together with it."""
        how = ffi.new("as_outcome *")
        try:
            others = borrow.choose(self.target, self._mappings)
        except NoSuchProcess:
            return True
        except AllocscopeError:
            return False
        first = [self.tid] if self.tid in others else []
        for tid in (first + [tid for tid in others if tid != self.tid])[:_ATTEMPTS]:
            number = lib.as_reap(self._thread(tid, self.clean_up_deadline()), inner_pid, how)
            self.reap_pause_ns += how.pause_ns
            if number in (0, errno.ECHILD):
                return True
            if not how.released:
                break
        return not task_exists(self.target)

    def _thread(self, tid: int, deadline_ns: int) -> Any:
        thread = ffi.new("as_thread *")
        thread.pid, thread.tid, thread.deadline_ns = self.target, tid, deadline_ns
        thread.code.syscall_return, thread.code.restorer = self._code
        thread.stacks, thread.stack_count = self._stacks, len(self._stacks)
        return thread

    def clean_up_deadline(self) -> int:
        return max(self.deadline_ns, time.monotonic_ns() + _CLEAN_UP_NS)


_WORTH_ANOTHER_THREAD = (
    lib.AS_AT_SEIZE,
    lib.AS_AT_STOP,
    lib.AS_AT_STATE,
    lib.AS_AT_STACK,
    lib.AS_AT_WRITE,
)


class _Twin:
    """The life of one B. Both methods run in the tracer thread."""

    def __init__(self, session: _Session, plan: CopyPlan) -> None:
        self._session = session
        self._plan = plan
        self._pid: Any = ffi.new("int *")
        self._inner_pid: Any = ffi.new("int *")

    def make(self) -> Copy:
        session, plan = self._session, self._plan
        session.twins.append(self)
        locks = ffi.new("uint64_t[]", list(plan.lock_words))
        held_locks = ffi.new("uint8_t[]", max(len(plan.lock_words), 1))
        stderr_locked = ffi.new("int *")
        native = ffi.new("as_twin_plan *")
        native.lifetime_ns = session.lifetime_ns
        native.locks, native.lock_count = locks, len(plan.lock_words)
        native.stderr_variable, native.stderr_file = (
            plan.stderr_variable or 0,
            plan.stderr_file or 0,
        )
        number = lib.as_make_twin(
            session.held,
            native,
            session.deadline_ns,
            self._pid,
            self._inner_pid,
            held_locks,
            stderr_locked,
        )
        if number:
            raise Unsafe(
                f"the snapshot of process {session.target} could not be copied: {os.strerror(number)}",
                "A limit on memory or processes may be reached, or the --deadline; try again.",
            )
        pid = int(self._pid[0])
        return Copy(
            pid=pid,
            output_path=f"/proc/{pid}/fd/2",
            locks_held=tuple(
                word for word, was in zip(plan.lock_words, held_locks, strict=False) if was
            ),
            stderr_locked=bool(stderr_locked[0]),
        )

    def end(self) -> None:
        if self in self._session.twins:
            self._session.twins.remove(self)
            if self._pid[0]:
                deadline = self._session.clean_up_deadline()
                lib.as_end_twin(self._session.held, self._pid[0], self._inner_pid[0], deadline)


def task_exists(pid: int) -> bool:
    """Alive, or at least not collected."""
    return Path(f"/proc/{pid}").exists()
