"""What the control groups of a process allow: CPU quota and memory limit, of version 1 or 2.

Strategy: /proc/PID/cgroup names the group, our own mountinfo says where its hierarchy is mounted
and from which group on. Limits of the parents hold as well, so each directory up to the mount
point is read and the tightest counts.

Rule: what cannot be seen from here (no mount, another namespace) is None, which is not the same as
no limit, so the path says which directory was read.
"""

from __future__ import annotations

from collections.abc import Iterator

from allocscope.model.process import CgroupLimits
from allocscope.parse import cgroup
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


def directories(pid: int, controller: str) -> tuple[str, ...]:
    """The groups that a controller sees ``pid`` in, its own first; none where that is not mounted.

    Raises NoSuchProcess, PermissionRefused.
    """
    return _chain(*_hierarchies(pid), controller)[1]


def cpu_quota(pid: int) -> float | None:
    """The CPU quota of ``pid`` in CPUs, None without one. Raises NoSuchProcess,
    PermissionRefused."""
    return limits(pid).cpus


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
    version, directories = chain
    limit_name, usage_name = _MEMORY_FILES[version]
    least = own_usage = headroom = None
    where = next(iter(directories), None)
    for directory in directories:
        limit_text, usage_text = _read(directory, limit_name), _read(directory, usage_name)
        limit = cgroup.limit_bytes(limit_text) if limit_text else None
        usage = cgroup.usage_bytes(usage_text) if usage_text else None
        if directory == directories[0]:
            own_usage = usage
        if limit is None:
            continue
        if least is None or limit < least:
            least, where = limit, directory
        if usage is not None:
            left = max(0, limit - usage)
            headroom = left if headroom is None else min(headroom, left)
    return least, own_usage, headroom, where


def _read(directory: str, name: str) -> bytes:
    """A file of a group; empty where that group, or this kernel, has no such file."""
    try:
        with open(f"{directory}/{name}", "rb") as file:
            return file.read()
    except OSError:
        return b""
