"""How many CPUs glibc counts when it sets the limit of arenas, and how many a process may really
use.

Source: sysconf(3) _SC_NPROCESSORS_ONLN reads /sys/devices/system/cpu/online; sched_setaffinity(2).
Most releases of glibc take the online CPUs, those of 2.34 to 2.38 the affinity of the calling
thread; none looks at a CPU quota.
"""

from __future__ import annotations

import os

from allocscope.errors import BadInput
from allocscope.parse import cgroup
from allocscope.proc import refusal


def online() -> int:
    """The CPUs that are online on this machine (in a container: as its sysfs shows them)."""
    try:
        with open("/sys/devices/system/cpu/online", "rb") as file:
            count = cgroup.cpu_list(file.read().decode("ascii", "replace"))
    except (OSError, BadInput):
        count = 0
    return count or os.cpu_count() or 1


def affinity(pid: int) -> int:
    """How many CPUs the main thread of ``pid`` may run on. Raises NoSuchProcess,
    PermissionRefused."""
    try:
        return len(os.sched_getaffinity(pid))
    except OSError as error:
        raise refusal.translate(pid, "the CPU affinity", error) from error
