"""Opening exactly the file that a process has mapped, wherever that file is by now.

Strategy: the path in maps is a hint. It is as seen from the root of the process that *reads* maps,
as far as the file can be reached from there, and otherwise as seen from the top of the target's
mount namespace. So it is tried below /proc/PID/root, then below our own root, then (a target in a
chroot of its namespace) below /proc/PID/root without its leading components; each time the file
must be the mapped one, by device and inode. A deleted file, or one that was replaced by an
upgrade, has no path any more: /proc/PID/map_files still opens it, for which the kernel wants
CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.

Rule: the path is the target's choice, so only regular files are opened, without blocking, and
nothing is read before they have been compared. Some file systems (btrfs, older overlayfs) tell
stat(2) another device than they tell maps: there the inode must do, and only where map_files is
refused.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Callable, Iterator

from allocscope.closing import Closing
from allocscope.errors import BadInput
from allocscope.model.process import Mapping
from allocscope.parse import elf, maps

_DELETED = " (deleted)"

_Comparison = Callable[[os.stat_result, Mapping], bool]


class MappedFile(Closing):
    """A mapped file, open for reading. Close it, or use it in ``with``.

    ``how`` says what proves that it is the mapped one: ``path`` (device and inode), ``map_files``,
    ``inode``, ``build-id``.
    """

    def __init__(self, descriptor: int, how: str) -> None:
        self._descriptor = descriptor
        self.how = how
        self.size_bytes = os.fstat(descriptor).st_size

    @property
    def descriptor(self) -> int:
        """Open as long as this is."""
        return self._descriptor

    def read(self, offset: int, size: int) -> bytes:
        """Up to ``size`` bytes at ``offset``; fewer at the end of the file, none where it cannot
        be read."""
        try:
            return os.pread(self._descriptor, size, offset)
        except (OSError, OverflowError, ValueError):
            return b""

    def close(self) -> None:
        os.close(self._descriptor)


OpenFile = Callable[[Mapping], MappedFile | None]
"""Opens the file behind a mapping of one process; None where there is none that may be read."""


def opener(pid: int) -> OpenFile:
    """Of a running process."""
    return functools.partial(open_mapped_file, pid)


def open_by_build_id(path: str, build_id: str) -> MappedFile | None:
    """The file ``path`` of this machine, where it has that build-id (hex); else None."""
    descriptor = _open_regular(path)
    if descriptor is None:
        return None
    file = MappedFile(descriptor, "build-id")
    with contextlib.suppress(BadInput):
        if elf.build_id(elf.from_file(file.read)) == build_id:
            return file
    file.close()
    return None


def open_mapped_file(pid: int, mapping: Mapping) -> MappedFile | None:
    """The file behind ``mapping`` of process ``pid``, or None where there is none that may be
    read."""
    if not mapping.inode:
        return None
    descriptor = _open_by_path(pid, mapping, _same_device_and_inode)
    if descriptor is not None:
        return MappedFile(descriptor, "path")
    descriptor = _open_regular(f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}")
    if descriptor is not None:
        return MappedFile(descriptor, "map_files")
    descriptor = _open_by_path(pid, mapping, _same_inode)
    if descriptor is not None:
        return MappedFile(descriptor, "inode")
    return None


def _same_device_and_inode(found: os.stat_result, mapping: Mapping) -> bool:
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    return _same_inode(found, mapping) and device == mapping.device


def _same_inode(found: os.stat_result, mapping: Mapping) -> bool:
    return found.st_ino == mapping.inode


def _open_by_path(pid: int, mapping: Mapping, same: _Comparison) -> int | None:
    for path in _candidates(pid, mapping):
        descriptor = _open_regular(path)
        if descriptor is None:
            continue
        if same(os.fstat(descriptor), mapping):
            return descriptor
        os.close(descriptor)
    return None


def _candidates(pid: int, mapping: Mapping) -> Iterator[str]:
    """Where the file may be found. A name that ends in " (deleted)" may really end so: the inode
    will tell."""
    printed = mapping.path
    if not printed.startswith("/"):
        return
    root = f"/proc/{pid}/root"
    for path in dict.fromkeys((printed, maps.unescape(printed), printed.removesuffix(_DELETED))):
        yield root + path
        yield path
        below = path.find("/", 1)
        while below > 0:
            yield root + path[below:]
            below = path.find("/", below + 1)


def _open_regular(path: str) -> int | None:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    with contextlib.suppress(OSError, ValueError):
        # Opening a device or a FIFO can have effects: look first, and look again at what was
        # opened.
        if stat.S_ISREG(os.stat(path).st_mode):
            descriptor = os.open(path, flags)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
    return None
