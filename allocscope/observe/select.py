"""Which processes: by name, by cgroup.

Rules: reads /proc and the cgroup file system, nothing of a target's memory; kernel threads, zombies
and allocscope itself are never selected; a process that goes away meanwhile is simply not there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from allocscope.errors import NoSuchProcess, WrongUsage

PROC = Path("/proc")
_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD, in the flags of /proc/PID/stat (proc_pid_stat(5), field 9)."""


def pids(name: str | None = None, cgroup: str | None = None, proc: Path = PROC) -> list[int]:
    """The processes that meet all that is given, ascending.

    ``name`` is a regular expression, searched for in comm and in the executable's base name;
    ``cgroup`` the path of a directory below a cgroup mount, or as /proc/PID/cgroup names it.
    WrongUsage: not a regular expression, no such cgroup. NoSuchProcess: nothing matches.
    """
    found = _all(proc) if cgroup is None else sorted(_of_cgroup(_directory(cgroup, proc)))
    own = os.getpid()
    matches = _matcher(name)
    chosen = [pid for pid in found if pid != own and _has_memory(pid, proc) and matches(pid, proc)]
    if not chosen:
        wanted = [f"the name {name!r}"] if name is not None else []
        wanted += [f"the cgroup {cgroup}"] if cgroup is not None else []
        raise NoSuchProcess(
            f"No process has {' and '.join(wanted)}.",
            "Names are searched for in comm (at most 15 characters) and in the executable's name.",
        )
    return chosen


def comm(pid: int, proc: Path = PROC) -> str:
    """The process's name as the kernel has it; "" when it is gone."""
    try:
        return os.fsdecode((proc / str(pid) / "comm").read_bytes()).removesuffix("\n")
    except OSError:
        return ""


def _all(proc: Path) -> list[int]:
    return sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal())


def _matcher(name: str | None) -> Callable[[int, Path], bool]:
    if name is None:
        return lambda _pid, _proc: True
    try:
        pattern = re.compile(name)
    except re.error as error:
        raise WrongUsage(
            f"{name!r} is not a regular expression: {error}.",
            "See Python's re module for what --name understands.",
        ) from error
    return lambda pid, proc: any(pattern.search(text) for text in _names(pid, proc))


def _names(pid: int, proc: Path) -> Iterator[str]:
    yield comm(pid, proc)
    try:
        yield (proc / str(pid) / "exe").readlink().name
    except OSError:
        return


def _has_memory(pid: int, proc: Path) -> bool:
    """False for kernel threads, zombies, and what is gone."""
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
    except OSError:
        return False
    state, *rest = stat.rpartition(b")")[2].split()
    flags = int(rest[5])
    return state not in (b"Z", b"X") and not flags & _KERNEL_THREAD


def _directory(cgroup: str, proc: Path) -> Path:
    """The directory that ``cgroup`` means: itself, or below a cgroup mount (any hierarchy)."""
    candidates = [Path(cgroup)] if cgroup.startswith("/") else []
    candidates += [mount / cgroup.lstrip("/") for mount in _cgroup_mounts(proc)]
    for candidate in candidates:
        if (candidate / "cgroup.procs").is_file():
            return candidate
    raise NoSuchProcess(
        f"There is no cgroup {cgroup}.",
        "Give a directory below /sys/fs/cgroup, or the path that /proc/PID/cgroup shows.",
    )


def _cgroup_mounts(proc: Path) -> list[Path]:
    """Mount points of the cgroup hierarchies, version 2 first (proc_pid_mountinfo(5))."""
    mounts: list[tuple[bool, Path]] = []
    for line in (proc / "self" / "mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        kind = tail.partition(" ")[0]
        if kind in ("cgroup", "cgroup2"):
            mounts.append((kind == "cgroup", Path(fields.split()[4])))
    return [mount for _, mount in sorted(mounts)]


def _of_cgroup(directory: Path) -> Iterator[int]:
    for folder, _, files in os.walk(directory):
        if "cgroup.procs" not in files:
            continue
        try:
            lines = Path(folder, "cgroup.procs").read_text().split()
        except OSError:  # a threaded cgroup: its processes are listed further up
            continue
        yield from (int(pid) for pid in lines if pid != "0")
