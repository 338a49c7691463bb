"""Finds, in the files that the target has mapped, two pieces of code that every libc holds.

Strategy: the executable part of a file is searched on disk, the C library first, so no page of the
target is touched. The helper compares the bytes in memory before it relies on them, while the
thread stands still.
"""

from __future__ import annotations

from collections.abc import Iterable

from allocscope.errors import MissingPart
from allocscope.immutable import immutable
from allocscope.model.process import Mapping
from allocscope.proc.mapped import open_mapped_file

_SYSCALL_RETURN = b"\x0f\x05\xc3"
_RESTORER = b"\x48\xc7\xc0\x0f\x00\x00\x00\x0f\x05"
_LIBC_NAMES = ("libc.so", "libc-2.", "libc.musl", "ld-musl")
_LONGEST_SEARCH = 64 << 20


@immutable
class Code:
    """Addresses in the target: ``syscall; ret``, and what a signal handler returns to."""

    syscall_return: int
    restorer: int


def find(pid: int, mappings: Iterable[Mapping]) -> Code:
    """Raises MissingPart when no mapped file holds both."""
    candidates = [m for m in mappings if m.perms[2] == "x" and m.inode and m.readable]
    for mapping in sorted(candidates, key=_is_no_libc):
        file = open_mapped_file(pid, mapping)
        if file is None:
            continue
        with file:
            text = file.read(mapping.offset, min(mapping.size_bytes, _LONGEST_SEARCH))
        call, restorer = text.find(_SYSCALL_RETURN), text.find(_RESTORER)
        if call >= 0 and restorer >= 0:
            return Code(mapping.start + call, mapping.start + restorer)
    raise MissingPart(
        f"process {pid} has no readable library with the code that a snapshot is started with",
        "Run as root if its files belong to somebody else; the passive commands do without.",
    )


def _is_no_libc(mapping: Mapping) -> bool:
    return not mapping.path.rpartition("/")[2].startswith(_LIBC_NAMES)
