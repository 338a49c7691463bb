"""Which processes: by name, by cgroup.

Rules: reads /proc and the cgroup file system, nothing of a target's memory; kernel threads, zombies
and allocscope itself are never selected; a process that goes away meanwhile is simply not there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from allocscope.errors import AllocscopeError, NoSuchProcess, WrongUsage
from allocscope.parse import cgroup as cgroup_text
from allocscope.proc import procfs


def pids(name: str | None = None, cgroup: str | None = None) -> list[int]:
    """The processes that meet all that is given, ascending.

    ``name`` is a regular expression, searched for in comm and in the executable's base name;
    ``cgroup`` a directory below a cgroup mount, or a path as /proc/PID/cgroup shows it; the cgroups
    below it count too. WrongUsage: not a regular expression. NoSuchProcess: no such cgroup, or
    nothing matches.
    """
    pattern = _pattern(name)
    found = _all() if cgroup is None else set(_members(_directory(cgroup)))
    found.discard(os.getpid())
    chosen = [pid for pid in sorted(found) if _matches(pid, pattern)]
    if not chosen:
        wanted = [f"matches the name {name!r}"] if name is not None else []
        wanted += [f"is in the cgroup {cgroup}"] if cgroup is not None else []
        raise NoSuchProcess(
            f"no process {' and '.join(wanted)}",
            "Names are searched for in comm (at most 15 characters) and in the executable's name.",
        )
    return chosen


def comm(pid: int) -> str:
    """The process's name as the kernel has it; "" when it is gone."""
    try:
        return procfs.stat(pid).comm
    except AllocscopeError:
        return ""


def _all() -> set[int]:
    return {int(entry) for entry in os.listdir("/proc") if entry.isdecimal()}


def _pattern(name: str | None) -> re.Pattern[str] | None:
    try:
        return None if name is None else re.compile(name)
    except re.error as error:
        raise WrongUsage(
            f"{name!r} is not a regular expression: {error}",
            "Python's module re says what --name understands.",
        ) from error


def _matches(pid: int, pattern: re.Pattern[str] | None) -> bool:
    try:
        stat = procfs.stat(pid)
    except AllocscopeError:
        return False
    if stat.kernel_thread or stat.dead:
        return False
    if pattern is None or pattern.search(stat.comm):
        return True
    try:
        return bool(pattern.search(os.path.basename(procfs.exe(pid))))
    except AllocscopeError:
        return False


def _directory(cgroup: str) -> str:
    """The directory that ``cgroup`` means: itself, or below a cgroup mount (any hierarchy)."""
    candidates = [cgroup] if cgroup.startswith("/") else []
    candidates += [os.path.join(mount, cgroup.lstrip("/")) for mount in _mounts()]
    for candidate in candidates:
        if os.path.isfile(os.path.join(candidate, "cgroup.procs")):
            return candidate
    raise NoSuchProcess(
        f"there is no cgroup {cgroup}",
        "Give a directory below /sys/fs/cgroup, or the path that /proc/PID/cgroup shows.",
    )


def _mounts() -> list[str]:
    """Mount points of the cgroup hierarchies, version 2 first."""
    with open("/proc/self/mountinfo", "rb") as file:
        found = cgroup_text.mounts(file.read())
    return [mount.point for mount in sorted(found, key=lambda m: (-m.version, m.point))]


def _members(directory: str) -> Iterator[int]:
    for folder, _, files in os.walk(directory):
        if "cgroup.procs" not in files:
            continue
        try:
            with open(os.path.join(folder, "cgroup.procs"), encoding="ascii") as file:
                lines = file.read().split()
        except OSError:  # a threaded cgroup: its processes are listed further up
            continue
        yield from (int(pid) for pid in lines if pid != "0")
