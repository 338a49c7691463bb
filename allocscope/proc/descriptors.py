"""What a process holds through its descriptors: files in memory, sockets, graphics devices.

Strategy: /proc/PID/fd names every descriptor; stat through it tells the size of a file in memory
(tmpfs, memfd), without opening anything. Rules: a descriptor that is closed meanwhile is left out;
at most MOST are looked at, and how many there are is told all the same.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter

from allocscope.immutable import immutable
from allocscope.parse import fdinfo, sockets
from allocscope.parse.fdinfo import DeviceClient, SharedBuffer
from allocscope.proc import refusal

MOST = 1 << 16
_SOCKET = re.compile(r"socket:\[(\d+)\]$")
_DEVICE = "/dev/dri/"
_SHARED_BUFFER = "/dmabuf:"
_LIMIT = re.compile(rb"^Max open files +(\d+) ", re.MULTILINE)
_NETWORKS = ("tcp", "tcp6", "udp", "udp6")


@immutable
class MemoryFile:
    """A file in memory that is held open. ``device`` as /proc/PID/maps prints it."""

    path: str
    device: str
    inode: int
    allocated_bytes: int


@immutable
class Descriptors:
    """``count``: all of them; the others are what was found behind them. ``files``: how many are of
    one file, by its path."""

    count: int
    files: dict[str, int]
    memory_files: tuple[MemoryFile, ...]
    socket_inodes: frozenset[int]
    device_clients: tuple[DeviceClient, ...]
    shared_buffers: tuple[SharedBuffer, ...]


def descriptors(pid: int, tmpfs_devices: frozenset[str]) -> Descriptors:
    """Looks at every descriptor. Raises NoSuchProcess, PermissionRefused."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError as error:
        raise refusal.translate(pid, "the descriptors", error) from error
    files: dict[tuple[str, int], MemoryFile] = {}
    inodes: set[int] = set()
    clients: dict[tuple[str, str], DeviceClient] = {}
    buffers: dict[int, SharedBuffer] = {}
    paths: Counter[str] = Counter()
    for name in names[:MOST]:
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            found = _SOCKET.match(target)
            if found:
                inodes.add(int(found[1]))
            elif target.startswith(_DEVICE):
                client = fdinfo.device_client(_read(f"/proc/{pid}/fdinfo/{name}"))
                if client is not None:
                    clients[client.device, client.client] = client
            elif target.startswith(_SHARED_BUFFER):
                buffer = fdinfo.shared_buffer(_read(f"/proc/{pid}/fdinfo/{name}"))
                if buffer is not None:
                    buffers[buffer.inode] = buffer
            elif target.startswith("/"):
                paths[target] += 1
                file = _memory_file(f"/proc/{pid}/fd/{name}", target, tmpfs_devices)
                if file is not None:
                    files[file.device, file.inode] = file
    return Descriptors(
        count=len(names),
        files=dict(paths),
        memory_files=tuple(files.values()),
        socket_inodes=frozenset(inodes),
        device_clients=tuple(clients.values()),
        shared_buffers=tuple(buffers.values()),
    )


def open_count(pid: int) -> int | None:
    """How many there are, at little cost: Linux 6.2 and later tell it as the size of the directory.
    None where it may not be looked at."""
    with contextlib.suppress(OSError):
        return os.stat(f"/proc/{pid}/fd").st_size or len(os.listdir(f"/proc/{pid}/fd"))
    return None


def limit_count(pid: int) -> int | None:
    """How many descriptors ``pid`` may have (soft limit); None without a limit, or where it may not
    be asked."""
    found = _LIMIT.search(_read(f"/proc/{pid}/limits"))
    return int(found[1]) if found else None


def _memory_file(link: str, target: str, tmpfs_devices: frozenset[str]) -> MemoryFile | None:
    found = os.stat(link)
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    if device not in tmpfs_devices or not found.st_blocks:
        return None
    return MemoryFile(target, device, found.st_ino, found.st_blocks * 512)


def queued_bytes(pid: int, inodes: frozenset[int]) -> int:
    """Unsent and unread bytes of these sockets (TCP and UDP)."""
    if not inodes:
        return 0
    return sum(
        socket.send_bytes + socket.receive_bytes
        for network in _NETWORKS
        for socket in sockets.queues(_read(f"/proc/{pid}/net/{network}"))
        if socket.inode in inodes
    )


def protocol_pages(pid: int) -> dict[str, int]:
    """Pages of socket memory by protocol, of the whole network namespace."""
    return sockets.protocol_memory(_read(f"/proc/{pid}/net/sockstat"))


def _read(path: str) -> bytes:
    """A file of the kernel; empty where this kernel has none, or the process is gone."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read()
    return b""
