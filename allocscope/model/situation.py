"""All that is known of a process when its causes are sought: what a pure rule may look at."""

from __future__ import annotations

from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX
from allocscope.model.heap import ArenasData
from allocscope.model.ledger import Ledger, OutsideRss
from allocscope.model.libc import Allocator
from allocscope.model.owners import Holding
from allocscope.model.page_map import PageMap
from allocscope.model.process import (
    CachedFile,
    CgroupLimits,
    CgroupMemory,
    DescriptorUse,
    Pressure,
    Process,
    ProcessStatus,
    SmapsEntry,
    SmapsRollup,
    Swapping,
)


@immutable
class ArenaResidence:
    """The resident bytes of one arena by what they are used for, as in the ledger's rows; summed
    over all arenas they are those rows. ``locked_pages_bytes`` is the part of ``whole_pages_bytes``
    that malloc_trim cannot release, ``top_trimmable_bytes`` that of ``top_bytes`` that it can;
    ``last_live`` is the live chunk nearest to top, None without one."""

    index: int
    live_bytes: int
    tcache_bytes: int
    fastbin_bytes: int
    whole_pages_bytes: int
    locked_pages_bytes: int
    shared_pages_bytes: int
    top_bytes: int
    top_trimmable_bytes: int
    overhead_bytes: int
    unread_bytes: int
    last_live: int | None = field(metadata=HEX)
    last_live_bytes: int

    @property
    def free_bytes(self) -> int:
        return (
            self.tcache_bytes
            + self.fastbin_bytes
            + self.whole_pages_bytes
            + self.shared_pages_bytes
            + self.top_bytes
        )

    @property
    def resident_bytes(self) -> int:
        return self.live_bytes + self.free_bytes + self.overhead_bytes + self.unread_bytes


@immutable
class Contention:
    """How often the arenas' lock words were found taken, and taken while others waited for it, in
    so many looks at a word."""

    look_count: int
    locked_count: int
    waited_for_count: int


@immutable
class HugeUse:
    """Transparent huge pages. ``huge_bytes``: all; ``looked_at_bytes``: those that were read, which
    stand for the others; ``zero_bytes``: of each holding that has such pages, by its number, what
    its small pages of nothing but zeros come to."""

    huge_bytes: int
    looked_at_bytes: int
    zero_bytes: tuple[tuple[int, int], ...]


@immutable
class Situation:
    """One process at (nearly) one moment. ``rollup``, ``status``, ``limits``, ``outside`` and
    ``contention`` are None where nothing tells (a recording, an old kernel); ``environ`` has the
    malloc settings of the start environment; ``heap`` is what ``arenas`` says; ``pages`` is None
    unless it was asked for, ``huge`` where too little is in huge pages to matter, or memory cannot
    be read; ``cached`` has the largest of the mapped files; ``descriptors`` is None where they may
    not be looked at. ``at_most``: nothing tells what was resident (a core), so all counts as
    resident that can have been, and ``rss_bytes`` is the sum of what heaps of any kind can have."""

    process: Process
    allocator: Allocator | None
    ledger: Ledger
    holdings: tuple[Holding, ...]
    smaps: tuple[SmapsEntry, ...]
    heap: ArenasData
    residence: tuple[ArenaResidence, ...]
    rollup: SmapsRollup | None
    status: ProcessStatus | None
    limits: CgroupLimits | None
    outside: tuple[OutsideRss, ...] | None
    pressure: Pressure | None
    contention: Contention | None
    environ: dict[str, str] | None
    pages: PageMap | None = None
    huge: HugeUse | None = None
    swapping: Swapping | None = None
    cgroup: CgroupMemory | None = None
    cached: tuple[CachedFile, ...] = ()
    descriptors: DescriptorUse | None = None
    at_most: bool = False

    @property
    def rss_bytes(self) -> int:
        return self.ledger.rss_bytes
