"""Zombies that an allocscope which was killed has left below a target, and how they are known.

Strategy: a copy always dies with its tracer, but if that was killed after the target's thread had
been let go, nobody has collected the copy: it stays as a zombie, which costs the target a process
number and nothing else. The next run on the same target collects it (snapshot.py).

Rules: a zombie is ours only if it carries all the marks that a copy is born with and that programs
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
    return [Leftover(child, _inner_pid(child)) for child in task.children(pid) if _is_ours(child)]


def _is_ours(child: int) -> bool:
    try:
        dead = procfs.stat(child).state == "Z"
    except NoSuchProcess:
        return False  # collected meanwhile
    return (
        dead
        and task.exit_signal(child) == 0
        and task.status_line(child, "SigBlk") == _ALL_BLOCKED
        and task.status_line(child, "SigCgt") == _NO_HANDLER
    )


def _inner_pid(child: int) -> int:
    return procfs.status(child).ns_pid[-1]
