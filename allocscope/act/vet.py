"""Is this a process of which a copy may be made? Every refusal has its own message and says what to
do.

Strategy: only what the kernel tells without a stop is looked at, so a refusal has cost the target
nothing.

Rules: a seccomp filter may kill for a system call that it does not expect, and a shadow stack for a
return that it has not seen, so such threads are never used; a process whose children would be born
into another pid namespace is refused, because the end of the first one there would close that
namespace for good.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from allocscope.act import task
from allocscope.errors import MissingPart, NoSuchProcess, Unsafe

_KERNEL_THREAD = 0x00200000  # PF_KTHREAD, include/linux/sched.h
_ELF_64 = 2


def vet(pid: int) -> int:
    """Raises unless a copy may be made; the process's start time in clock ticks, its identity
    together with the pid.

    Raises NoSuchProcess, PermissionRefused, Unsafe, MissingPart.
    """
    if platform.machine() != "x86_64":
        raise MissingPart(
            f"snapshots exist for x86-64 only, this is {platform.machine()}",
            "The passive commands work here.",
        )
    stat = task.stat(pid)
    if stat.flags & _KERNEL_THREAD:
        raise Unsafe(
            f"{pid} is a kernel thread: it has no memory of its own", "Name a user process."
        )
    if stat.state in "ZX":
        raise NoSuchProcess(f"process {pid} has ended and waits for its parent to collect it")
    if pid == os.getpid():
        raise Unsafe(
            "allocscope cannot stop itself", "Name another process, or use a passive command."
        )
    _refuse_traced(pid)
    _refuse_32_bit(pid)
    _refuse_foreign_children(pid)
    return stat.start_ticks


def unfit(pid: int, tid: int) -> str:
    """Why this thread must not be used: "seccomp", "shadow stack", "traced", or "" when it may."""
    status = task.status(pid, tid)
    if status.get("Seccomp", "0") != "0":
        return "seccomp"
    if "shstk" in status.get("x86_Thread_features", "").split():
        return "shadow stack"
    return "traced" if status["TracerPid"] != "0" else ""


def _refuse_traced(pid: int) -> None:
    tracer = int(task.status(pid)["TracerPid"])
    if tracer:
        name = task.read(tracer, "comm").strip()
        raise Unsafe(
            f"process {pid} is already traced by {tracer} ({ascii(name)[1:-1]}), and a process "
            "can have only one tracer",
            "Let that debugger detach first; the passive commands work meanwhile.",
        )


def _refuse_32_bit(pid: int) -> None:
    try:
        with open(f"/proc/{pid}/exe", "rb") as file:
            head = file.read(5)
    except OSError as error:
        raise task.translated(pid, error) from error
    if head[:4] == b"\x7fELF" and head[4] != _ELF_64:
        raise Unsafe(
            f"process {pid} is a 32-bit program: no snapshot of it can be made",
            "Use a passive command.",
        )


def _refuse_foreign_children(pid: int) -> None:
    try:
        own = Path(f"/proc/{pid}/ns/pid").readlink()
        children = Path(f"/proc/{pid}/ns/pid_for_children").readlink()
    except OSError as error:
        raise task.translated(pid, error) from error
    if own != children:
        raise Unsafe(
            f"process {pid} has chosen a new pid namespace for its children; a snapshot would be "
            "the first of them, and its end would close that namespace",
            "Use a passive command.",
        )
