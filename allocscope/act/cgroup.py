"""How much room the limits around a process leave: memory and number of processes, cgroup v1 and
v2.

Strategy: a limit may be set at every level, so each directory from the process's own group up to
the root of the mount is looked at and the tightest one counts. Page cache is not counted as used:
the kernel gives it up first.

Rules: a file that is missing (root group, controller off, not mounted here) is no limit.

Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst; cgroups(7);
proc_pid_mountinfo(5).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from allocscope.act import task

_MEMORY = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
_FILE_CACHE = ("inactive_file", "active_file", "total_inactive_file", "total_active_file")


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """What is left below one limit; ``limit`` names it for messages."""

    left: int
    limit: str


def memory_room(pid: int) -> Room:
    """Bytes that the process and its copies may still take: the tightest cgroup, or the machine's
    MemAvailable.
    """
    rooms = [Room(_machine_available(), "the machine's available memory")]
    for group in _groups(pid, "memory"):
        for limit_name, usage_name in _MEMORY:
            limit, usage = _number(group / limit_name), _number(group / usage_name)
            if limit is not None and usage is not None:
                rooms.append(
                    Room(max(limit - usage + _file_cache(group), 0), str(group / limit_name))
                )
    return min(rooms, key=lambda room: room.left)


def process_room(pid: int) -> Room | None:
    """Processes that may still be made in the process's groups; None where no limit is set."""
    rooms = []
    for group in _groups(pid, "pids"):
        limit, usage = _number(group / "pids.max"), _number(group / "pids.current")
        if limit is not None and usage is not None:
            rooms.append(Room(max(limit - usage, 0), str(group / "pids.max")))
    return min(rooms, key=lambda room: room.left, default=None)


def _groups(pid: int, controller: str) -> Iterator[Path]:
    """The directories of the process's group and of those around it, for v2 and for v1's
    controller.
    """
    paths = {}
    for line in (task.read(pid, "cgroup") or "").split("\n")[:-1]:
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            paths[name] = path
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").split("\n")[:-1]:
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        name = "" if kind == "cgroup2" else controller
        if name not in paths or not (
            kind == "cgroup2" or (kind == "cgroup" and controller in options.split(","))
        ):
            continue
        root, mount = fields.split()[3:5]
        try:
            below = PurePosixPath(paths[name]).relative_to(root)
        except ValueError:
            continue  # the group lies outside of what is mounted here
        group = Path(mount) / below
        yield group
        yield from (parent for parent in group.parents if parent.is_relative_to(mount))


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _file_cache(group: Path) -> int:
    """v1 counts this group in one line and this with those below in another; the larger is the one
    wanted.
    """
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    sizes = {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}
    own, below = (
        sum(sizes.get(name, 0) for name in names) for names in (_FILE_CACHE[:2], _FILE_CACHE[2:])
    )
    return max(own, below)


def _machine_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("every kernel since 3.14 prints MemAvailable")
