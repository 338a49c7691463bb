"""Is this a process of which a copy may be made, or that may be made to call something? Every
refusal says why, and what to do.

Strategy: only what the kernel tells without a stop is looked at, so a refusal costs the target
nothing.

Rules: a seccomp filter may kill for a system call that it does not expect, and a shadow stack for
a return that it has not seen, so such threads are never used. A process whose children would be
born into another pid namespace is refused, because the end of the first one there would close that
namespace for good.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from allocscope.act import task
from allocscope.errors import MissingPart, NoSuchProcess, Unsafe
from allocscope.model.process import Process, ProcessStatus
from allocscope.proc import procfs, refusal

_PASSIVE = "Use a command that only reads (explain, arenas, trim)."
_READ_INSTEAD = (
    "What only reads works: `allocscope arenas PID`, `record`, `diff`, and `arenas` of a core file."
)
_MOST_THREADS = 512
_ELF_32 = b"\x7fELF\x01"


def vet(pid: int) -> Process:
    """Who it is, unless no copy may be made of it.

    Raises NoSuchProcess, NoGlibcHeap (a kernel thread), PermissionRefused, Unsafe, MissingPart.
    """
    process = vet_for_call(pid)
    _refuse_foreign_children(pid)
    return process


def vet_for_call(pid: int) -> Process:
    """Who it is, unless no thread of it may be made to call anything. Raises as :func:`vet`."""
    process = procfs.identify(pid)
    refuse_machine(pid)
    if pid == os.getpid():
        raise Unsafe("allocscope cannot stop itself", f"Name another process. {_PASSIVE}")
    _refuse_traced(pid)
    return process


def refuse_stopped(pid: int) -> None:
    """Raises Unsafe for a process whose threads stand still, perhaps with a lock in hand."""
    if procfs.status(pid).state == "T":
        raise Unsafe(f"process {pid} is stopped (SIGSTOP)", f"Continue it. Or: {_PASSIVE}")


def threads(pid: int) -> Iterator[tuple[int, ProcessStatus, tuple[int, int] | None]]:
    """The number, status and system call of each thread, of very many the first. Threads that end
    meanwhile are passed over. Raises NoSuchProcess."""
    for tid in task.threads(pid)[:_MOST_THREADS]:
        try:
            status = procfs.status(tid)
        except NoSuchProcess:
            continue
        yield tid, status, task.system_call(pid, tid)


def unfit(status: ProcessStatus) -> str:
    """Why the thread of this status must not be used; "" when it may."""
    if status.seccomp:
        return "seccomp"
    if status.shadow_stack:
        return "shadow stack"
    if status.tracer_pid:
        return "traced"
    return "ended" if status.state in "ZX" else ""


def refuse_all(pid: int, reasons: set[str]) -> Unsafe:
    """The error for a process none of whose threads may be used, for these reasons."""
    if "seccomp" in reasons:
        return Unsafe(
            f"process {pid} runs under a seccomp filter, which may kill it for a call not its own",
            f"{_PASSIVE} Or start the process without the filter.",
        )
    if "shadow stack" in reasons:
        return Unsafe(
            f"process {pid} runs with a shadow stack, which forbids the way calls are put into it",
            f"{_PASSIVE} Or start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off.",
        )
    if "vfork" in reasons:
        return Unsafe(
            f"process {pid} waits for a vfork child and cannot be stopped",
            "Try again once the child has called exec.",
        )
    if "traced" in reasons:
        return Unsafe(
            f"the threads of process {pid} are already traced", "Let that debugger detach first."
        )
    return Unsafe(
        f"process {pid} has no thread that can be stopped: all of them wait uninterruptibly",
        f"See /proc/{pid}/stack for what they wait for; try again later.",
    )


def _refuse_traced(pid: int) -> None:
    tracer = procfs.status(pid).tracer_pid
    if tracer:
        name = ascii((task.read(tracer, "comm") or "?").strip())[1:-1]
        raise Unsafe(
            f"process {pid} is already traced by {tracer} ({name}), and there can be only one "
            "tracer",
            "Let that debugger detach first; what only reads works meanwhile.",
        )


def refuse_machine(pid: int) -> None:
    """Copies are made, and glibc's functions called, by x86-64 code in x86-64 programs only.

    Raises MissingPart on another machine, Unsafe for a 32-bit program, NoSuchProcess,
    PermissionRefused."""
    machine = platform.machine()
    if machine != "x86_64":
        raise MissingPart(
            f"stopping, copying and calling exist for x86-64 only, not on this machine ({machine})",
            _READ_INSTEAD,
        )
    try:
        with open(f"/proc/{pid}/exe", "rb") as file:
            head = file.read(len(_ELF_32))
    except OSError as error:
        raise refusal.translate(pid, "the executable", error) from error
    if head == _ELF_32:
        raise Unsafe(
            f"process {pid} is a 32-bit program: no snapshot is made of it, and glibc is not asked",
            _READ_INSTEAD,
        )


def _refuse_foreign_children(pid: int) -> None:
    namespaces = Path(f"/proc/{pid}/ns")
    try:
        own = (namespaces / "pid").readlink()
        children = _target_of(namespaces / "pid_for_children")
    except OSError as error:
        raise refusal.translate(pid, "the namespaces", error) from error
    if own != children:
        raise Unsafe(
            f"process {pid} has chosen a new pid namespace for its children; a snapshot would be "
            "the first of them, and its end would close that namespace",
            _PASSIVE,
        )


def _target_of(link: Path) -> Path | None:
    """A pid namespace in which nobody was born yet has no name (pidns_for_children_get)."""
    try:
        return link.readlink()
    except FileNotFoundError:
        return None


def same(process: Process) -> None:
    """Raises NoSuchProcess when the number has been given to another process meanwhile."""
    if procfs.stat(process.pid).start_ticks != process.start_ticks:
        raise NoSuchProcess(f"process {process.pid} went away meanwhile")
