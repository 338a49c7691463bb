"""Which thread of the target may be stopped for a moment, best first.

Strategy: a thread that sleeps in a call which the kernel restarts unseen never learns of the stop.
epoll_wait, sigtimedwait and a few others return EINTR from any stop, so they come last. Threads
that wait uninterruptibly (a vfork in progress, a disk) would not stop and are left out.

Source: signal(7), "Interruption of system calls and library functions by stop signals"; the
kernel's -ERESTART* returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allocscope.act import task, vet
from allocscope.errors import NoSuchProcess, Unsafe
from allocscope.model.process import Mapping

MOST_THREADS = 512
_ROOM_BYTES = 16 << 10

# Numbers of x86-64: read, poll, select, nanosleep, wait4, futex, clock_nanosleep, waitid, pselect6,
# ppoll.
_RESTARTED = frozenset({0, 7, 23, 35, 61, 202, 230, 247, 270, 271})
# pause, semop, sigsuspend, sigtimedwait, io_getevents, semtimedop, epoll_wait, epoll_pwait,
# io_pgetevents, io_uring_enter, epoll_pwait2: EINTR from a stop, or a wake-up that an unlucky
# moment could swallow.
_NOTICES = frozenset({34, 65, 130, 128, 208, 220, 232, 281, 333, 426, 441})
_VFORKS = frozenset({56, 58, 435})


def stacks(mappings: Sequence[Mapping]) -> list[Mapping]:
    """The mappings in which a stack may lie: writable anonymous memory, without the brk heap."""
    return [m for m in mappings if m.writable and m.readable and m.anonymous and m.path != "[heap]"]


def choose(pid: int, mappings: Sequence[Mapping]) -> list[int]:
    """Thread ids, best first. Raises Unsafe when there is none, NoSuchProcess."""
    possible = stacks(mappings)
    ranked: list[tuple[int, int]] = []
    reasons: set[str] = set()
    for tid in task.threads(pid)[:MOST_THREADS]:
        try:
            reason = vet.unfit(pid, tid)
            rank = _rank(pid, tid, possible)
        except NoSuchProcess:
            continue  # that thread has ended meanwhile
        if isinstance(rank, str):
            reason = reason or rank
        if reason:
            reasons.add(reason)
        elif isinstance(rank, int):
            ranked.append((rank, tid))
    if not ranked:
        raise _nobody(pid, reasons)
    return [tid for _, tid in sorted(ranked)]


def _rank(pid: int, tid: int, possible: Sequence[Mapping]) -> int | str:
    """0 best; or why not."""
    state = task.read(pid, f"task/{tid}/stat").rpartition(")")[2].split()[0]
    words = task.read(pid, f"task/{tid}/syscall").split()
    number = int(words[0]) if words and words[0] != "running" else None
    if state == "D":
        return "vfork" if number in _VFORKS else "uninterruptible"
    if state in "ZX":
        return "ended"
    if number is None:
        return 2
    if not _has_room(int(words[-2], 16), possible):
        return 4
    if number in _NOTICES:
        return 3
    return 0 if number in _RESTARTED else 1


def _has_room(stack_pointer: int, possible: Sequence[Mapping]) -> bool:
    return any(m.start + _ROOM_BYTES <= stack_pointer < m.end for m in possible)


def _nobody(pid: int, reasons: set[str]) -> Unsafe:
    if "seccomp" in reasons:
        return Unsafe(
            f"process {pid} runs under a seccomp filter, which may kill it for copying itself",
            "Use a passive command; or start the process without the filter.",
        )
    if "shadow stack" in reasons:
        return Unsafe(
            f"process {pid} runs with a shadow stack, which forbids the way a copy is made",
            "Use a passive command; or start it with GLIBC_TUNABLES=glibc.cpu.x86_shstk=off.",
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


def describe(pid: int, tid: int) -> str:
    """For messages: the thread's number and name, escaped."""
    try:
        name = Path(f"/proc/{pid}/task/{tid}/comm").read_text(errors="backslashreplace").strip()
    except OSError:
        return str(tid)
    return f"{tid} ({ascii(name)[1:-1]})"
