"""File systems that live in memory, as a process sees them."""

from __future__ import annotations

import contextlib

from allocscope.parse import mountinfo

_INTERNAL_SHMEM = "00:01"
"""The kernel's own mount for shared anonymous memory, memfd and System V segments."""


def tmpfs_devices(pid: int) -> frozenset[str]:
    """The devices of tmpfs mounts, as /proc/PID/maps prints them; those that can be seen."""
    devices = {_INTERNAL_SHMEM}
    with contextlib.suppress(OSError), open(f"/proc/{pid}/mountinfo", "rb") as file:
        devices |= {
            mount.maps_device for mount in mountinfo.parse(file.read()) if mount.kind == "tmpfs"
        }
    return frozenset(devices)
