"""Finds, in the files that the target has mapped, two pieces of code that every libc holds.

Strategy: the executable part of a file is searched on disk, the C library first, so no page of the
target is touched. The helper compares the bytes in memory before it relies on them, while the
thread stands still.

Rules: a file is opened the way the target sees it (/proc/PID/map_files, which also works for
deleted files, else through /proc/PID/root); ordinary files only.
"""

from __future__ import annotations

import dataclasses
import os
import stat
from collections.abc import Iterable

from allocscope.errors import MissingPart
from allocscope.model.process import Mapping

_SYSCALL_RETURN = b"\x0f\x05\xc3"
_RESTORER = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"
_LIBC_NAMES = ("libc.so", "libc-2.", "libc.musl", "ld-musl")
_LONGEST_SEARCH = 64 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Code:
    """Addresses in the target: ``syscall; ret``, and the code that a signal handler returns to."""

    syscall_return: int
    restorer: int


def find(pid: int, mappings: Iterable[Mapping]) -> Code:
    """Raises MissingPart when no mapped file holds both."""
    candidates = [m for m in mappings if m.perms[2] == "x" and m.inode and m.readable]
    for mapping in sorted(candidates, key=_is_no_libc):
        text = _read(pid, mapping)
        call, restorer = text.find(_SYSCALL_RETURN), text.find(_RESTORER)
        if call >= 0 and restorer >= 0:
            return Code(mapping.start + call, mapping.start + restorer)
    raise MissingPart(
        f"process {pid} has no readable library with the code that a snapshot is started with",
        "Run as root if its files belong to somebody else; the passive commands do without.",
    )


def _is_no_libc(mapping: Mapping) -> bool:
    return not mapping.path.rpartition("/")[2].startswith(_LIBC_NAMES)


def _read(pid: int, mapping: Mapping) -> bytes:
    """The part of the file that is mapped there; empty if it cannot be opened."""
    paths = (
        f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}",
        f"/proc/{pid}/root{mapping.path}",
    )
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue  # the other way may be open; find() says so if none is
        with open(descriptor, "rb", buffering=0) as file:
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                file.seek(mapping.offset)
                return file.read(min(mapping.size_bytes, _LONGEST_SEARCH))
    return b""
