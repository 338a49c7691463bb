"""Zombies that an allocscope which was killed has left below a target, and how they are known.

Strategy: a copy always dies with its tracer, but if that was killed after the target's thread had
been let go, nobody has collected the copy: it stays as a zombie, which costs the target a process
number and nothing else. The next run on the same target collects it.

Rules: a zombie is ours only if it carries all the marks a copy is born with and no program gives
its children: exit signal 0 (its end is announced to nobody), every signal blocked, even the two
that glibc never blocks, and no handler.

Source: proc_pid_stat(5) field 38, proc_pid_status(5); CONFIG_PROC_CHILDREN for the list of
children.
"""

from __future__ import annotations

import dataclasses

from allocscope.act import task
from allocscope.errors import NoSuchProcess

# All signals but KILL (9) and STOP (19), which cannot be blocked: the raw mask of all ones, as
# status prints it.
_ALL_BLOCKED = f"{0xFFFFFFFFFFFFFFFF & ~(1 << 8) & ~(1 << 18):016x}"


@dataclasses.dataclass(frozen=True, slots=True)
class Leftover:
    """``inner_pid``: its number in the target's own pid namespace, by which the target has to
    collect it.
    """

    pid: int
    inner_pid: int


def find(pid: int) -> list[Leftover]:
    """The zombies below ``pid`` that are ours. Raises NoSuchProcess when the target is gone."""
    found = []
    for child in children(pid):
        try:
            if task.stat(child).state != "Z" or task.stat(child).exit_signal != 0:
                continue
            status = task.status(child)
        except NoSuchProcess:
            continue  # collected meanwhile
        if status.get("SigBlk") == _ALL_BLOCKED and not int(status.get("SigCgt", "1"), 16):
            found.append(Leftover(child, int(status["NSpid"].split()[-1])))
    return found


def children(pid: int) -> list[int]:
    """Children of all threads; empty where the kernel has no such list."""
    numbers: list[int] = []
    for tid in task.threads(pid):
        try:
            numbers += map(int, task.read(pid, f"task/{tid}/children").split())
        except NoSuchProcess:
            continue  # the thread has ended, or this kernel has no such file
    return numbers
