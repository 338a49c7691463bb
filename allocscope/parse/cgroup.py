"""Control groups: /proc/PID/cgroup, their mounts in /proc/PID/mountinfo, and the limits in their
files.

Rules: "no limit" is None (v2 prints ``max``, v1 prints −1 for a quota, and for memory the largest
number of bytes that is a whole number of pages). Both versions may be in use at once, each for
other controllers.

Source: cgroups(7), proc_pid_mountinfo(5); cgroup-v1/memory.rst, scheduler/sched-bwc.rst and
cgroup-v2.rst of the kernel's documentation.
"""

from __future__ import annotations

from allocscope.errors import BadInput
from allocscope.immutable import immutable
from allocscope.model.process import CgroupMemory

_NO_LIMIT = 1 << 62
_OCTAL_DIGITS = frozenset("01234567")


@immutable
class Membership:
    """One line of /proc/PID/cgroup. ``controllers`` is empty for version 2 (hierarchy 0)."""

    hierarchy: int
    controllers: tuple[str, ...]
    path: str


@immutable
class Mount:
    """Where a hierarchy is mounted. ``root``: which of its groups is seen at ``point``."""

    version: int
    root: str
    point: str
    options: tuple[str, ...]


def memberships(data: bytes) -> tuple[Membership, ...]:
    """The groups that a process is in. Raises BadInput."""
    return tuple(
        _membership(line) for line in data.decode("utf-8", "surrogateescape").split("\n") if line
    )


def mounts(data: bytes) -> tuple[Mount, ...]:
    """The control group hierarchies among the mounts. Raises BadInput."""
    found = (_mount(line) for line in data.decode("utf-8", "surrogateescape").split("\n") if line)
    return tuple(mount for mount in found if mount is not None)


def cpu_max(data: bytes) -> float | None:
    """``cpu.max`` of version 2 ("200000 100000") in CPUs; None for "max". Raises BadInput."""
    quota, _, period = data.partition(b" ")
    if quota.strip() == b"max":
        return None
    return _cpus(_number(quota), _number(period))


def cpu_quota(quota: bytes, period: bytes) -> float | None:
    """``cpu.cfs_quota_us`` and ``cpu.cfs_period_us`` of version 1 in CPUs; None without a quota.
    Raises BadInput."""
    microseconds = _number(quota)
    return None if microseconds < 0 else _cpus(microseconds, _number(period))


def limit_bytes(data: bytes) -> int | None:
    """``memory.max`` or ``memory.limit_in_bytes``; None where there is no limit. Raises
    BadInput."""
    if data.strip() == b"max":
        return None
    limit = _number(data)
    return None if limit >= _NO_LIMIT else limit


def usage_bytes(data: bytes) -> int:
    """``memory.current`` or ``memory.usage_in_bytes``. Raises BadInput."""
    return _number(data)


def flat_keyed(data: bytes) -> dict[str, int]:
    """A file of names with numbers, such as ``memory.stat``. Raises BadInput."""
    pairs = (line.partition(b" ") for line in data.splitlines() if line)
    return {name.decode("utf-8", "replace"): _number(value) for name, _, value in pairs}


def memory(version: int, path: str, usage: bytes, stat: bytes, kernel: bytes) -> CgroupMemory:
    """From ``memory.current`` and ``memory.stat`` of version 2; of version 1 from
    ``memory.usage_in_bytes``, ``memory.stat`` and ``memory.kmem.usage_in_bytes`` (may be empty).
    Raises BadInput."""
    told = flat_keyed(stat)
    if version == 1:
        told = {key.removeprefix("total_"): size for key, size in told.items()}
    cache, shared = told.get("file" if version == 2 else "cache"), told.get("shmem")
    listed = [told.get(f"{sort}_file") for sort in ("inactive", "active")]
    slab = told.get("slab_reclaimable")
    return CgroupMemory(
        path=path,
        usage_bytes=usage_bytes(usage),
        anonymous_bytes=told.get("anon" if version == 2 else "rss"),
        file_bytes=None if cache is None else cache - (shared or 0),
        shared_bytes=shared,
        kernel_bytes=usage_bytes(kernel) if kernel else told.get("kernel"),
        slab_reclaimable_bytes=slab,
        slab_unreclaimable_bytes=told.get("slab_unreclaimable"),
        socket_bytes=told.get("sock"),
        zswap_bytes=told.get("zswap"),
        zswapped_bytes=told.get("zswapped"),
        reclaimable_bytes=None if None in listed else sum(filter(None, listed)) + (slab or 0),
    )


def cpu_list(text: str) -> int:
    """How many CPUs a list such as ``0-3,8`` names. Raises BadInput."""
    count = 0
    for part in filter(None, text.strip().split(",")):
        first, dash, last = part.partition("-")
        count += _number(last) - _number(first) + 1 if dash else 1
    return count


def _membership(line: str) -> Membership:
    hierarchy, _, rest = line.partition(":")
    controllers, colon, path = rest.partition(":")
    if not colon or not path.startswith("/"):
        raise BadInput(f"cgroup: this is not a line of it: {line[:80]!r}")
    return Membership(_number(hierarchy), tuple(filter(None, controllers.split(","))), path)


def _mount(line: str) -> Mount | None:
    """A line of mountinfo; None for other file systems."""
    front, dash, back = line.partition(" - ")
    fields, kind = front.split(" "), back.split(" ")
    if not dash or len(fields) < 6 or len(kind) < 3:
        raise BadInput(f"mountinfo: this is not a line of it: {line[:80]!r}")
    if kind[0] not in ("cgroup", "cgroup2"):
        return None
    version = 2 if kind[0] == "cgroup2" else 1
    return Mount(version, _unescape(fields[3]), _unescape(fields[4]), tuple(kind[2].split(",")))


def _unescape(text: str) -> str:
    """The kernel writes a space, a tab, a newline or a backslash as one and three octal digits."""
    first, *rest = text.split("\\")
    return first + "".join(map(_unescaped, rest))


def _unescaped(part: str) -> str:
    digits = part[:3]
    if len(digits) == 3 and set(digits) <= _OCTAL_DIGITS:
        return chr(int(digits, 8)) + part[3:]
    return "\\" + part


def _cpus(quota: int, period: int) -> float:
    if period <= 0:
        raise BadInput(f"cgroup: a CPU period of {period} µs")
    return quota / period


def _number(text: bytes | str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise BadInput(f"cgroup: not a number: {text[:40]!r}") from error
