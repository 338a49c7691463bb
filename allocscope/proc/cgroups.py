"""What the control groups of a process allow: CPU quota, memory and number of processes, of
version 1 or 2, and how much room is left below the limits.

Strategy: /proc/PID/cgroup names the group, our own mountinfo says where its hierarchy is mounted
and from which group on. Limits of the parents hold as well, so each directory up to the mount
point is read and the tightest counts.

Rules: what cannot be seen from here (no mount, another namespace) is None, which is not the same
as no limit, so the path says which directory was read. Page cache is not counted as used where
room is asked for: the kernel gives it up first. A file that is missing (root group, controller
off) sets no limit.

Source: cgroups(7); cgroup-v2.rst and cgroup-v1/memory.rst of the kernel's documentation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from allocscope.errors import BadInput
from allocscope.immutable import immutable
from allocscope.model.process import CgroupLimits, Pressure, Stalls
from allocscope.parse import cgroup
from allocscope.parse.pressure import parse as parse_pressure
from allocscope.proc import refusal


def limits(pid: int) -> CgroupLimits:
    """CPU quota and memory limit of ``pid``. Raises NoSuchProcess, PermissionRefused."""
    return tightest(*_hierarchies(pid))


def tightest(
    memberships: tuple[cgroup.Membership, ...], mounts: tuple[cgroup.Mount, ...]
) -> CgroupLimits:
    """The limits of a process in these groups, read where the hierarchies are mounted."""
    cpu_path, cpus = _cpu(_chain(memberships, mounts, "cpu"))
    memory = _memory(_chain(memberships, mounts, "memory"))
    return CgroupLimits(cpus, cpu_path, *memory)


def cpu_quota(pid: int) -> float | None:
    """The CPU quota of ``pid`` in CPUs, None without one. Raises NoSuchProcess,
    PermissionRefused."""
    return _cpu(_chain(*_hierarchies(pid), "cpu"))[1]


@immutable
class Room:
    """What is left below one limit; ``limit`` names it for messages."""

    left: int
    limit: str


def memory_room(pid: int) -> Room:
    """Bytes that the process and its copies may still take: the least that a group, or the machine
    (MemAvailable), leaves. Raises NoSuchProcess, PermissionRefused."""
    chain = _chain(*_hierarchies(pid), "memory")
    rooms = [Room(_machine_available(), "the machine's available memory")]
    for level in _limits(chain, *_MEMORY_FILES[chain[0]]):
        rooms.append(Room(level.left + _file_cache(level.directory), level.limit_file))
    return min(rooms, key=lambda room: room.left)


def memory_group(pid: int) -> tuple[int, str | None]:
    """The version of the hierarchy that counts memory, and the directory of the process's own
    group, None where it cannot be seen. Raises NoSuchProcess, PermissionRefused."""
    version, directories = _chain(*_hierarchies(pid), "memory")
    return version, next(iter(directories), None)


def pressure(pid: int) -> Pressure:
    """How short of memory the machine and the process's own group are. Raises NoSuchProcess,
    PermissionRefused."""
    version, directories = _chain(*_hierarchies(pid), "memory")
    own = next(iter(directories), "")
    events = "memory.events" if version == 2 else "memory.oom_control"
    return Pressure(
        system=_stalls("/proc/pressure", "memory"),
        cgroup=_stalls(own, "memory.pressure") if version == 2 else None,
        oom_kill_count=_numbers(own, events).get("oom_kill"),
        refault_count=_refaults(own),
    )


def refault_count(pid: int) -> int | None:
    """Pages that came back to the process's own group after they had been taken, since the group
    was made; None where it does not tell. Raises NoSuchProcess, PermissionRefused."""
    return _refaults(next(iter(_chain(*_hierarchies(pid), "memory")[1]), ""))


_REFAULTS = ("workingset_refault_anon", "workingset_refault_file", "workingset_refault")


def _refaults(directory: str) -> int | None:
    stat = _numbers(directory, "memory.stat")
    found = [stat[name] for name in _REFAULTS if name in stat]
    return sum(found) if found else None


def _stalls(directory: str, name: str) -> Stalls | None:
    with contextlib.suppress(BadInput):
        return parse_pressure(_read(directory, name)) if directory else None
    return None


def _numbers(directory: str, name: str) -> dict[str, int]:
    return cgroup.flat_keyed(_read(directory, name)) if directory else {}


def process_room(pid: int) -> int | None:
    """Processes that may still be made in the process's groups; None where no limit is set. Raises
    NoSuchProcess, PermissionRefused."""
    levels = _limits(_chain(*_hierarchies(pid), "pids"), "pids.max", "pids.current")
    return min((level.left for level in levels), default=None)


_Chain = tuple[int, tuple[str, ...]]
"""The version of the hierarchy, and the directories from the process's own group upward."""


def _hierarchies(
    pid: int,
) -> tuple[tuple[cgroup.Membership, ...], tuple[cgroup.Mount, ...]]:
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            memberships = cgroup.memberships(file.read())
    except OSError as error:
        raise refusal.translate(pid, "the control groups", error) from error
    with open("/proc/self/mountinfo", "rb") as file:
        return memberships, cgroup.mounts(file.read())


def _chain(
    memberships: tuple[cgroup.Membership, ...], mounts: tuple[cgroup.Mount, ...], controller: str
) -> _Chain:
    for membership in memberships:
        if controller in membership.controllers:
            for mount in mounts:
                if mount.version == 1 and controller in mount.options:
                    return 1, tuple(_upward(membership.path, mount))
    for membership in memberships:
        if not membership.controllers:
            for mount in mounts:
                if mount.version == 2:
                    return 2, tuple(_upward(membership.path, mount))
    return 2, ()


def _upward(path: str, mount: cgroup.Mount) -> Iterator[str]:
    root = mount.root.rstrip("/")
    inside = path == root or path.startswith(root + "/")
    if not inside or "/.." in path:
        return
    parts = [part for part in path[len(root) :].split("/") if part]
    for count in range(len(parts), -1, -1):
        yield "/".join([mount.point, *parts[:count]])


def _cpu(chain: _Chain) -> tuple[str | None, float | None]:
    """The directory and the quota in CPUs."""
    version, directories = chain
    least = None
    where = next(iter(directories), None)
    for directory in directories:
        if version == 2:
            text = _read(directory, "cpu.max")
            cpus = cgroup.cpu_max(text) if text else None
        else:
            quota, period = (
                _read(directory, "cpu.cfs_quota_us"),
                _read(directory, "cpu.cfs_period_us"),
            )
            cpus = cgroup.cpu_quota(quota, period) if quota and period else None
        if cpus is not None and (least is None or cpus < least):
            least, where = cpus, directory
    return where, least


_MEMORY_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("memory.max", "memory.current"),
}


def _memory(chain: _Chain) -> tuple[int | None, int | None, int | None, str | None]:
    """Limit, usage of the own group, headroom, and the directory of the limit."""
    directories = chain[1]
    levels = list(_limits(chain, *_MEMORY_FILES[chain[0]]))
    own = _read(directories[0], _MEMORY_FILES[chain[0]][1]) if directories else b""
    rooms = [level.left + _file_cache(level.directory) for level in levels]
    least = min(levels, key=lambda level: level.limit, default=None)
    return (
        least.limit if least else None,
        cgroup.usage_bytes(own) if own else None,
        min(rooms, default=None),
        least.directory if least else next(iter(directories), None),
    )


@immutable
class _Level:
    """A group that sets a limit, and how much of it is used."""

    directory: str
    limit_file: str
    limit: int
    usage: int

    @property
    def left(self) -> int:
        return max(0, self.limit - self.usage)


def _limits(chain: _Chain, limit_name: str, usage_name: str) -> Iterator[_Level]:
    for directory in chain[1]:
        limit_text, usage_text = _read(directory, limit_name), _read(directory, usage_name)
        limit = cgroup.limit_bytes(limit_text) if limit_text else None
        if limit is not None and usage_text:
            usage = cgroup.usage_bytes(usage_text)
            yield _Level(directory, f"{directory}/{limit_name}", limit, usage)


_OWN_CACHE = ("inactive_file", "active_file")
_CACHE_BELOW = ("total_inactive_file", "total_active_file")


def _file_cache(directory: str) -> int:
    """Bytes of page cache that a group is charged with. Version 1 counts this group in some lines
    and with those below it in others: the larger is meant."""
    sizes = cgroup.flat_keyed(_read(directory, "memory.stat"))
    return max(sum(sizes.get(name, 0) for name in names) for names in (_OWN_CACHE, _CACHE_BELOW))


def _machine_available() -> int:
    """Every kernel since 3.14 prints MemAvailable."""
    with open("/proc/meminfo", "rb") as file:
        sizes = dict(line.split(b":", 1) for line in file.read().splitlines())
    return int(sizes[b"MemAvailable"].split()[0]) * 1024


def _read(directory: str, name: str) -> bytes:
    """A file of a group; empty where that group, or this kernel, has no such file."""
    try:
        with open(f"{directory}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""
