"""The answer of ``explain``: the ledger of RSS, memory outside of it, the causes, the verdict."""

from __future__ import annotations

from typing import Literal

from allocscope.immutable import immutable
from allocscope.model.process import CgroupMemory, Pressure

LedgerKey = Literal[
    "glibc-live",
    "glibc-tcache",
    "glibc-fastbin",
    "glibc-free-whole-pages",
    "glibc-free-shared-pages",
    "glibc-top",
    "glibc-overhead",
    "glibc-unread",
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
"""The rows of the ledger, in this order. The last one is of files alone: what they do not tell the
owner of."""

OutsideKey = Literal[
    "hugetlb",
    "page-tables",
    "kernel-stacks",
    "sockets",
    "tmpfs-held",
    "device-memory",
    "page-cache",
]
CauseKey = Literal[
    "untrimmed-free",
    "locked-free",
    "scattered-live",
    "top-pinned",
    "parked-top",
    "arena-spread",
    "thread-top",
    "tcache-hoard",
    "fastbin-hoard",
    "raised-thresholds",
    "thp-inflation",
    "lazyfree-held",
    "large-live",
    "runtime-heap",
    "other-allocator",
    "file-cache",
    "shared-memory",
    "fork-sharing",
    "swapped-out",
    "slab-growth",
    "kernel-memory",
    "tmpfs-held",
    "descriptor-growth",
    "setting-without-effect",
    "healthy",
]
Confidence = Literal["measured", "inferred", "hint"]
GainIs = Literal["measured", "forecast", "unknown"]


@immutable
class LedgerRow:
    """One owner's share of RSS. ``resident_bytes`` is exact; ``virtual_bytes`` is the memory it
    spans, resident or not; the others are None where the kernel tells them only of a mapping that
    several rows share. ``evidence``: what makes these bytes its own."""

    key: LedgerKey
    label: str
    virtual_bytes: int
    resident_bytes: int
    lazyfree_bytes: int | None
    swapped_bytes: int | None
    evidence: tuple[str, ...]


@immutable
class Ledger:
    """RSS, row by row: ``sum(resident_bytes) + drift_bytes == rss_bytes``, always.

    ``drift_bytes`` (signed) is what changed between the kernel's count and ours; more than 0.1 % of
    RSS is too much."""

    rss_bytes: int
    rows: tuple[LedgerRow, ...]
    drift_bytes: int

    def row(self, key: LedgerKey) -> LedgerRow:
        return next(row for row in self.rows if row.key == key)

    def evidence_of(self, key: LedgerKey) -> tuple[str, ...]:
        """What a row rests on; nothing where there is no such row."""
        return next((row.evidence for row in self.rows if row.key == key), ())

    def resident(self, *keys: LedgerKey) -> int:
        """Resident bytes of these rows together."""
        return sum(row.resident_bytes for row in self.rows if row.key in keys)


@immutable
class OutsideRss:
    """Memory that the process causes and that no RSS counts."""

    key: OutsideKey
    bytes: int
    evidence: str


@immutable
class Remedy:
    """What can be done. ``gain_bytes``: what it would give back, None where that is unknown;
    ``cost``: what it takes, in words."""

    key: str
    action: str
    gain_bytes: int | None
    gain_is: GainIs
    cost: str


@immutable
class Cause:
    """One reason why memory is held. ``bytes`` of several causes may overlap; ``exclusive_bytes``
    do not, and rank. ``share_of_rss_ratio``: None where RSS is not known (a core)."""

    key: CauseKey
    title: str
    bytes: int
    exclusive_bytes: int
    share_of_rss_ratio: float | None
    confidence: Confidence
    evidence: tuple[str, ...]
    remedies: tuple[Remedy, ...]


def healthy_bytes(rss_bytes: int) -> int:
    """What a cause may hold in a process that is called healthy: 16 MiB, or 10 % of RSS."""
    return max(16 << 20, rss_bytes // 10)


@immutable
class Explanation:
    """The data of the contract. ``peak_rss_bytes``, ``footprint_bytes`` and ``outside_rss`` are
    None where nothing tells (an old recording). ``memory_limit_bytes``: the tightest limit of its
    control groups, None without one; ``memory_headroom_bytes``: the least that any of them can
    still grow before the kernel reclaims or kills; ``cgroup``: what its own group is charged
    with."""

    rss_bytes: int
    peak_rss_bytes: int | None
    footprint_bytes: int | None
    ledger: tuple[LedgerRow, ...]
    drift_bytes: int
    outside_rss: tuple[OutsideRss, ...] | None
    causes: tuple[Cause, ...]
    verdict: str
    memory_limit_bytes: int | None = None
    memory_headroom_bytes: int | None = None
    pressure: Pressure | None = None
    cgroup: CgroupMemory | None = None
