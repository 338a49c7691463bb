"""What an allocscope that was killed has left below a target, and how it is known.

Strategy: a copy always dies with its tracer, but if that was killed after the target's thread had
been let go, nobody has collected the copy: it stays as a zombie, which costs the target a process
number and nothing else. The next snapshot of the same target collects it (snapshot.py), or
``doctor --clean`` (clean.py). A copy that lives and that nobody traces should not exist; if one
does, it is told and can be ended.

Rules: a child is ours only if it carries all the marks that a copy is born with and that programs
do not give their children: exit signal 0 (its end is announced to nobody), every signal blocked,
even the two that glibc never blocks, and no handler.
"""

from __future__ import annotations

from allocscope.act import task
from allocscope.errors import NoSuchProcess
from allocscope.immutable import immutable
from allocscope.proc import procfs

# The raw mask of all ones as status prints it: KILL (9) and STOP (19) cannot be blocked.
_ALL_BLOCKED = f"{0xFFFFFFFFFFFFFFFF & ~(1 << 8) & ~(1 << 18):016x}"
_NO_HANDLER = f"{0:016x}"


@immutable
class Leftover:
    """``inner_pid``: its number in the target's own pid namespace, by which the target has to
    collect it."""

    pid: int
    inner_pid: int


def find(pid: int) -> list[Leftover]:
    """The zombies below ``pid`` that are ours. Raises NoSuchProcess when the target is gone."""
    return [
        Leftover(child, _inner_pid(child))
        for child in task.children(pid)
        if _state(child) == "Z" and _has_the_marks(child)
    ]


def abandoned(pid: int) -> list[int]:
    """The copies below ``pid`` that live although nobody traces them. Raises NoSuchProcess when the
    target is gone."""
    return [child for child in task.children(pid) if is_abandoned(child)]


def is_abandoned(child: int) -> bool:
    """Is it a living copy without a tracer?"""
    return (
        _state(child) not in ("", "Z", "X")
        and task.status_line(child, "TracerPid") == "0"
        and _has_the_marks(child)
    )


def at_work(pid: int) -> list[tuple[int, int]]:
    """The copies below ``pid`` that another run is using now, each with its tracer. Raises
    NoSuchProcess when the target is gone."""
    found = []
    for child in task.children(pid):
        tracer = int(task.status_line(child, "TracerPid") or 0)
        if tracer and _state(child) != "Z" and _has_the_marks(child):
            found.append((child, tracer))
    return found


def _state(child: int) -> str:
    """The kernel's letter; "" for one that was collected meanwhile."""
    try:
        return procfs.stat(child).state
    except NoSuchProcess:
        return ""


def _has_the_marks(child: int) -> bool:
    return (
        task.exit_signal(child) == 0
        and task.status_line(child, "SigBlk") == _ALL_BLOCKED
        and task.status_line(child, "SigCgt") == _NO_HANDLER
    )


def _inner_pid(child: int) -> int:
    return procfs.status(child).ns_pid[-1]
