"""The answer of ``explain`` about a core: what could have been resident, and what was certainly
somewhere.

The keys are those of Explanation. What a core does not tell is None; it tells no page states, so
memory is counted by what it spans, and beside that by what of it cannot be a page that was never
touched.
"""

from __future__ import annotations

from allocscope.immutable import immutable
from allocscope.model.ledger import Cause, LedgerKey

HEAP_ROWS: frozenset[LedgerKey] = frozenset(
    {
        "glibc-live", "glibc-tcache", "glibc-fastbin", "glibc-free-whole-pages",
        "glibc-free-shared-pages", "glibc-top", "glibc-overhead", "glibc-unread", "glibc-mmapped",
        "other-allocator", "runtime-heap", "unexplained",
    }
)  # fmt: skip
"""The rows that a heap of any kind can be in."""


@immutable
class CoreRow:
    """One owner's share of what was mapped. ``nonzero_bytes``: on pages that are not all zeros in
    the core, which were in memory or in swap; None of what has a file behind it, where they may
    have been in that file alone."""

    key: LedgerKey
    label: str
    virtual_bytes: int
    evidence: tuple[str, ...]
    nonzero_bytes: int | None
    resident_bytes: None = None
    lazyfree_bytes: None = None
    swapped_bytes: None = None


@immutable
class CoreExplanation:
    """The data of the contract for a core. Causes have the bytes that they held at most."""

    ledger: tuple[CoreRow, ...]
    causes: tuple[Cause, ...]
    verdict: str
    rss_bytes: None = None
    peak_rss_bytes: None = None
    footprint_bytes: None = None
    drift_bytes: None = None
    outside_rss: None = None
    memory_limit_bytes: None = None
    memory_headroom_bytes: None = None
    pressure: None = None
    cgroup: None = None

    @property
    def heap_bytes(self) -> int:
        """What heaps of any kind span."""
        return sum(row.virtual_bytes for row in self.ledger if row.key in HEAP_ROWS)
