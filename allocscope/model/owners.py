"""Who owns which memory of a process: what recognisers claim, and every mapping divided by it."""

from __future__ import annotations

from typing import Literal

from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX

HeapKey = Literal["glibc-main-heap", "glibc-thread-heap"]
"""What the ledger divides further, chunk by chunk."""

RowKey = Literal[
    "glibc-mmapped",
    "other-allocator",
    "runtime-heap",
    "thread-stacks",
    "file-private",
    "file-shared",
    "shared-memory",
    "program-data",
    "loader-and-special",
    "unexplained",
    "not-recorded",
]
"""What is a row of the ledger as it is."""

OwnerKey = HeapKey | RowKey


@immutable
class Claim:
    """``[start, end)`` belongs to ``owner`` ("main heap", "stack of thread 17", a library's path).

    ``evidence``: the structure that was found in memory, or what the kernel says; that a library is
    loaded is none."""

    start: int = field(metadata=HEX)
    end: int = field(metadata=HEX)
    key: OwnerKey
    owner: str
    evidence: str


@immutable
class Holding:
    """A mapping, or the part of one that has the same owner, with its figures.

    From smaps where the part is the whole mapping; else ``resident_bytes``, ``swapped_bytes`` and
    ``huge_bytes`` are counted page by page, a page that two parts share by byte, and what smaps
    tells only of the whole is None unless it is the same everywhere. ``resident_bytes`` is None
    where nothing tells (a core). ``perms`` and ``path`` are those of the mapping,
    ``mapping_index`` its place in smaps."""

    start: int = field(metadata=HEX)
    end: int = field(metadata=HEX)
    key: OwnerKey
    owner: str
    evidence: str
    perms: str
    path: str
    mapping_index: int
    whole: bool
    resident_bytes: int | None
    private_dirty_bytes: int | None
    lazyfree_bytes: int | None
    swapped_bytes: int | None
    huge_bytes: int | None

    @property
    def row(self) -> RowKey | None:
        """The ledger's row; None for the heaps, which are several rows."""
        key = self.key
        return None if key == "glibc-main-heap" or key == "glibc-thread-heap" else key

    @property
    def virtual_bytes(self) -> int:
        return self.end - self.start
