"""What ``lazyfree`` tells: pages that were given back with MADV_FREE and are still in RSS."""

from __future__ import annotations

from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX


@immutable
class Owner:
    """Whose memory a mapping is. ``evidence``: what in the process's memory ties the mapping to
    it; "" for an unknown owner."""

    name: str
    evidence: str


@immutable
class LazyMapping:
    """One mapping that holds such pages.

    ``lazyfree_bytes``: as smaps counts them. ``rewritten_bytes``: written to after MADV_FREE, so
    the program's own again, which the kernel has not noted yet; None where frames cannot be seen.
    ``locked``: mlock keeps its pages in memory. ``allocscope.model.process.Mapping`` has the rest
    of what the kernel says.
    """

    start: int = field(metadata=HEX)
    end: int = field(metadata=HEX)
    path: str
    owner: Owner
    resident_bytes: int
    lazyfree_bytes: int
    rewritten_bytes: int | None
    locked: bool


@immutable
class LazyOwner:
    """All that one owner holds."""

    name: str
    mapping_count: int
    resident_bytes: int
    lazyfree_bytes: int


@immutable
class Reclaimed:
    """What ``--reclaim`` did, measured.

    ``advised_bytes``: what the kernel was asked to take, page by page, those that it left at first
    twice. ``released_bytes``: those of them that were gone afterwards; ``swapped_bytes``: those
    that were swapped out (the program had written to them meanwhile). ``rss_before_bytes`` and the
    like are smaps' sums, of a process that may have gone on.
    """

    advised_bytes: int
    released_bytes: int
    swapped_bytes: int
    duration_ns: int
    rss_before_bytes: int
    rss_after_bytes: int
    lazyfree_before_bytes: int
    lazyfree_after_bytes: int


@immutable
class LazyfreeData:
    """``exact``: the pages are known one by one; else only how many each mapping has.
    ``mappings``: those that hold such pages, before any reclaim."""

    rss_bytes: int
    lazyfree_bytes: int
    rewritten_bytes: int | None
    exact: bool
    owners: tuple[LazyOwner, ...]
    mappings: tuple[LazyMapping, ...]
    reclaimed: Reclaimed | None
