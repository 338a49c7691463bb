"""How much room the limits around a process leave: memory and number of processes.

Strategy: a limit may be set at every level, so the tightest of the process's own group and those
around it counts. Page cache is not counted as used: the kernel gives it up first.

Rules: a file that is missing (root group, controller off, not mounted here) is no limit.

Source: cgroups(7); cgroup-v2.rst and cgroup-v1/memory.rst of the kernel's documentation.
"""

from __future__ import annotations

from pathlib import Path

from allocscope.immutable import immutable
from allocscope.proc import cgroups

_MEMORY = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_OWN_CACHE = ("inactive_file", "active_file")
_CACHE_BELOW = ("total_inactive_file", "total_active_file")


@immutable
class Room:
    """What is left below one limit; ``limit`` names it for messages."""

    left: int
    limit: str


def memory_room(pid: int) -> Room:
    """Bytes that the process and its copies may still take: the least that a group, or the machine
    (MemAvailable), leaves."""
    rooms = [Room(_machine_available(), "the machine's available memory")]
    for directory in cgroups.directories(pid, "memory"):
        group = Path(directory)
        for limit, usage in _MEMORY:
            left = _left(group / limit, group / usage)
            if left is not None:
                rooms.append(Room(left + _file_cache(group), str(group / limit)))
    return min(rooms, key=lambda room: room.left)


def process_room(pid: int) -> int | None:
    """Processes that may still be made in the process's groups; None where no limit is set."""
    groups = (Path(directory) for directory in cgroups.directories(pid, "pids"))
    rooms = (_left(group / "pids.max", group / "pids.current") for group in groups)
    return min((left for left in rooms if left is not None), default=None)


def _left(limit_file: Path, usage_file: Path) -> int | None:
    limit, usage = _number(limit_file), _number(usage_file)
    return None if limit is None or usage is None else max(limit - usage, 0)


def _number(file: Path) -> int | None:
    """None for a file that is not there, and for "max"."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _file_cache(group: Path) -> int:
    """v1 counts this group in some lines and with those below it in others: the larger is meant."""
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    sizes = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
    return max(sum(sizes.get(name, 0) for name in names) for names in (_OWN_CACHE, _CACHE_BELOW))


def _machine_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("every kernel since 3.14 prints MemAvailable")
