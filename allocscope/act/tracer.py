"""The one thread that does all tracing of one target.

Strategy: ptrace ties a tracee to the *thread* that attached it. A thread of our own, with every
signal blocked, makes the native calls one after the other; Ctrl-C reaches the main thread, which
then queues the clean-up behind whatever is under way. When a thread of the target could not be let
go (it would not stop), the end of this thread does it, as our death would.
"""

from __future__ import annotations

import concurrent.futures
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from typing import TypeVar

from allocscope.errors import (
    AllocscopeError,
    InternalError,
    MissingPart,
    NoSuchProcess,
    Unsafe,
)
from allocscope.native import lib
from allocscope.proc import procfs, refusal

_T = TypeVar("_T")


class Tracer:
    """A thread to call native code in. ``end`` it: that lets go of everything."""

    def __init__(self) -> None:
        self._pool = concurrent.futures.ThreadPoolExecutor(
            1, thread_name_prefix="allocscope-tracer", initializer=self._begin
        )
        self._number = 0

    def run(self, work: Callable[[], _T]) -> _T:
        """Waits for the result; the work goes on even if the wait is interrupted."""
        return self._pool.submit(work).result()

    def end(self, attached: Collection[int], deadline_ns: int) -> None:
        """Waits for work under way, then for the end of the thread, which lets ``attached`` go.

        Python counts a thread as ended a moment before the kernel does, so the kernel is asked.
        Raises InternalError when it still holds one of those threads at the deadline.
        """
        self._pool.shutdown(wait=True)
        for tid in attached:
            while self._traces(tid):
                if time.monotonic_ns() > deadline_ns:
                    raise InternalError(
                        f"allocscope still traces thread {tid}", "Ending allocscope lets it go."
                    )
                time.sleep(0.0002)

    def _begin(self) -> None:
        self._number = threading.get_native_id()
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())

    def _traces(self, tid: int) -> bool:
        try:
            return procfs.status(tid).tracer_pid == self._number
        except NoSuchProcess:
            return False


def has_ended(tid: int) -> bool:
    """To seize a thread that is just dying is refused like one of somebody else's."""
    try:
        return procfs.stat(tid).dead
    except NoSuchProcess:
        return True


def failure(pid: int, thread: str, step: int, number: int) -> AllocscopeError:
    """What ``number``, an errno at ``step`` of a borrowed call, means to the user."""
    reason = os.strerror(number)
    if number == errno.ESRCH or (step == lib.AS_AT_SEIZE and has_ended(pid)):
        return NoSuchProcess(f"process {pid}, or its thread {thread}, has ended meanwhile")
    if step == lib.AS_AT_SEIZE and number in (errno.EPERM, errno.EACCES):
        return refusal.permission(pid, "the registers")
    if number == errno.ETIMEDOUT and step == lib.AS_AT_STOP:
        return Unsafe(
            f"thread {thread} of process {pid} did not stop in time; it was left alone",
            "It may wait for a disk or for a vfork child; try again, or give a longer --deadline.",
        )
    if number == errno.ETIMEDOUT:
        return Unsafe(
            f"the copy of process {pid} was not finished in time; the process goes on by itself",
            "Give a longer --deadline.",
        )
    if number == errno.EBUSY:
        return Unsafe(
            f"thread {thread} of process {pid} never left its restartable sequences", "Try again."
        )
    if number == errno.ENOEXEC:
        return Unsafe(
            f"thread {thread} of process {pid} runs 32-bit code",
            "Use a command that only reads (explain, arenas, trim).",
        )
    if number == errno.EOPNOTSUPP:
        return Unsafe(
            f"thread {thread} of process {pid} handles its own system calls (as Wine does); one "
            "made for a snapshot could kill it",
            "Use a command that only reads (explain, arenas, trim).",
        )
    if step == lib.AS_AT_CODE and number == errno.EFAULT:  # what was mapped there is not any more
        return NoSuchProcess(f"process {pid} started another program meanwhile", "Ask again.")
    if step == lib.AS_AT_CODE:
        return Unsafe(
            f"the library of process {pid} differs in memory from its file ({reason})",
            "Use a command that only reads (explain, arenas, trim).",
        )
    if step in (lib.AS_AT_STACK, lib.AS_AT_WRITE):
        return Unsafe(
            f"thread {thread} of process {pid} stands on no ordinary stack, or has no room left "
            f"on it ({reason})",
            "Try again: another moment or thread may do. Coroutine stacks cannot be used.",
        )
    if step == lib.AS_AT_CALL and number in (errno.ENOMEM, errno.EAGAIN):
        return Unsafe(
            f"the kernel refused a copy of process {pid}: {reason}",
            "A limit on memory (overcommit, cgroup) or processes (ulimit -u, pids.max) is reached.",
        )
    if step in (lib.AS_AT_CALL, lib.AS_AT_COPY) and number in (errno.ENOSYS, errno.EINVAL):
        return MissingPart(
            f"this kernel cannot make the copy ({reason})",
            "Linux 5.9 or newer is needed; what only reads does without.",
        )
    return InternalError(
        f"the snapshot of process {pid} failed at step {step}: {reason}", "Please report this."
    )
