"""What the control group of a process is charged with, by kind of memory.

Rules: both versions count the groups below as well (version 1 in the lines that begin with total_).
The root group of version 2 has no usage of its own and is not told.

Source: cgroup-v2.rst, cgroup-v1/memory.rst of the kernel's documentation; memcg_stats of
mm/memcontrol.c.
"""

from __future__ import annotations

import contextlib

from allocscope.errors import BadInput
from allocscope.model.process import CgroupMemory
from allocscope.parse import cgroup
from allocscope.proc import cgroups


def cgroup_memory(pid: int) -> CgroupMemory | None:
    """None where the group, or its usage, cannot be seen. Raises NoSuchProcess,
    PermissionRefused."""
    version, directory = cgroups.memory_group(pid)
    if directory is None:
        return None
    usage = _read(directory, "memory.current" if version == 2 else "memory.usage_in_bytes")
    stat = _read(directory, "memory.stat")
    kernel = b"" if version == 2 else _read(directory, "memory.kmem.usage_in_bytes")
    with contextlib.suppress(BadInput):
        if usage:
            return cgroup.memory(version, directory, usage, stat, kernel)
    return None


def _read(directory: str, name: str) -> bytes:
    """A file of a group; empty where that group, or this kernel, has no such file."""
    with contextlib.suppress(OSError), open(f"{directory}/{name}", "rb") as file:
        return file.read()
    return b""
