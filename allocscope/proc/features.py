"""What this machine and this user allow: the facts behind ``doctor``.

Strategy: a feature is tried, on allocscope itself, rather than concluded from a version. Rules:
each function answers one question, changes nothing, and never raises: what cannot be found out is
None. Nothing here touches a target.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import struct

PAGEMAP_SCAN = 0xC0606610
"""_IOWR('f', 16, struct pm_scan_arg), 96 bytes (include/uapi/linux/fs.h)."""
_SCAN_ARGUMENT = struct.Struct("<12Q")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_FRAME = (1 << 55) - 1


def kernel() -> str:
    """The kernel's release, as uname -r."""
    return platform.release()


def native_helper() -> str | None:
    """Why the native helper cannot be loaded; None when it can."""
    try:
        import allocscope._probes  # noqa: F401
    except ImportError as error:
        return str(error)
    return None


def has_pagemap_scan() -> bool:
    """Linux 6.7: page states by the run instead of one by one."""
    argument = bytearray(_SCAN_ARGUMENT.pack(96, 0, 0, _PAGE_BYTES, 0, 0, 0, 0, 0, 0, 2, 2))
    try:
        with open("/proc/self/pagemap", "rb") as file:
            fcntl.ioctl(file, PAGEMAP_SCAN, argument)
    except OSError as error:
        return error.errno not in (errno.ENOTTY, errno.ENOENT, errno.EACCES)
    return True


def shows_page_frames() -> bool:
    """Does pagemap show frame numbers (CAP_SYS_ADMIN in the initial user namespace)?"""
    try:
        with open("/proc/self/maps", encoding="ascii", errors="replace") as lines:
            starts = [line.partition("-")[0] for line in lines if line.rstrip().endswith("[heap]")]
        with open("/proc/self/pagemap", "rb", buffering=0) as file:
            file.seek(int(starts[0], 16) // _PAGE_BYTES * 8)
            (entry,) = struct.unpack("<Q", file.read(8))
    except (OSError, IndexError, struct.error):
        return False
    return bool(entry & _FRAME)


def has_kpageflags() -> bool:
    """Can /proc/kpageflags be read (CAP_SYS_ADMIN)? It tells lazily freed pages exactly."""
    try:
        with open("/proc/kpageflags", "rb", buffering=0) as file:
            return len(file.read(8)) == 8
    except OSError:
        return False


def yama_scope() -> int | None:
    """kernel.yama.ptrace_scope; None where the kernel has no Yama."""
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def swap_bytes() -> int | None:
    """Swap space of this machine, 0 for none."""
    try:
        with open("/proc/swaps", encoding="utf-8", errors="replace") as file:
            return sum(int(line.split()[-3]) * 1024 for line in file.readlines()[1:])
    except (OSError, ValueError, IndexError):
        return None


def cgroup_version() -> int | None:
    """1 or 2 (2 where both are mounted but version 1 has no memory controller); None for none."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            mounts = [line.partition(" - ")[2].split() for line in file]
    except OSError:
        return None
    if any(m[0] == "cgroup" and "memory" in m[-1].split(",") for m in mounts):
        return 1
    return 2 if any(m[0] == "cgroup2" for m in mounts) else None
