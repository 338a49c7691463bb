"""What the chunk walk found: arenas, heaps, and how their bytes are used.

All sizes are chunk sizes (header included). The identity that every arena must satisfy, with
nothing computed as a remainder::

    system = live + tcache + fastbin + bin + top + overhead + unread      (residue_bytes is what is
    left over: 0)
"""

from __future__ import annotations

from allocscope.immutable import field, immutable
from allocscope.model.damage import Damage
from allocscope.model.fields import HEX
from allocscope.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from allocscope.model.glibc_says import GlibcSays


@immutable
class Overhead:
    """glibc's own bytes inside an arena, each kind counted, none derived."""

    arena_headers_bytes: int = 0
    alignment_bytes: int = 0
    fencepost_bytes: int = 0
    tcache_struct_bytes: int = 0
    foreign_brk_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        return (
            self.arena_headers_bytes
            + self.alignment_bytes
            + self.fencepost_bytes
            + self.tcache_struct_bytes
            + self.foreign_brk_bytes
        )


@immutable
class Figures:
    """The sums of one heap, one arena, or a whole process. See docs/concepts for the meaning of
    each figure."""

    system_bytes: int
    max_system_bytes: int
    live_bytes: int
    live_count: int
    tcache_bytes: int
    tcache_count: int
    fastbin_bytes: int
    fastbin_count: int
    bin_bytes: int
    bin_count: int
    top_bytes: int
    overhead_bytes: int
    overhead: Overhead
    unread_bytes: int
    residue_bytes: int
    resident_bytes: int
    private_dirty_bytes: int | None
    swapped_bytes: int | None
    lazyfree_bytes: int | None
    huge_bytes: int | None
    free_resident_bytes: int
    trimmable_bytes: int
    pinned_bytes: int

    @property
    def fragmentation_ratio(self) -> float:
        return self.free_resident_bytes / self.resident_bytes if self.resident_bytes else 0.0


@immutable
class Heap:
    """One contiguous piece of an arena: the brk heap, an mmap-fallback region, or one heap of a
    thread arena.

    ``[start, end)`` is what the arena may use now; ``reserved_bytes`` is the address space set
    aside for it."""

    start: int = field(metadata=HEX)
    end: int = field(metadata=HEX)
    reserved_bytes: int
    resident_bytes: int
    swapped_bytes: int | None
    huge_bytes: int | None
    live_bytes: int
    live_count: int
    free_bytes: int
    free_resident_bytes: int
    trimmable_bytes: int
    holds_top: bool


@immutable
class Arena:
    """One malloc arena. ``index`` is glibc's heap nr: ring order, 0 = main, 1 = newest."""

    index: int
    address: int = field(metadata=HEX)
    is_main: bool
    attached_threads: int | None
    locked: bool
    consistency: str
    figures: Figures
    heaps: tuple[Heap, ...]


@immutable
class Mmapped:
    """Chunks with a mapping of their own: glibc's counters (``mp_``) beside what was found by
    header, with those of other mallocs in the process: nothing tells whose a mapping is.
    ``resident_bytes``: of all that was found."""

    count: int
    bytes: int
    found_count: int
    found_bytes: int
    resident_bytes: int


@immutable
class SizeClass:
    """Chunks of ``min_bytes <= size <= max_bytes``; ``pages_held`` counts resident pages that hold
    a live one of them."""

    min_bytes: int
    max_bytes: int
    live_count: int
    live_bytes: int
    tcache_count: int
    tcache_bytes: int
    fastbin_count: int
    fastbin_bytes: int
    bin_count: int
    bin_bytes: int
    pages_held: int


@immutable
class PageHolder:
    """A size class by the resident pages that its live chunks are on: those stay resident, however
    little of them is live. ``held_bytes``: of those pages."""

    min_bytes: int
    max_bytes: int
    pages_held: int
    held_bytes: int
    live_count: int
    live_bytes: int


@immutable
class LargeFree:
    """A large free chunk: one in a bin, or an arena's top."""

    arena_index: int
    address: int = field(metadata=HEX)
    size_bytes: int
    resident_bytes: int
    is_top: bool


@immutable
class ParkedBy:
    """A thread, how many of the chunks its tcache has, and whether the tcache itself is there."""

    tid: int
    chunk_count: int
    tcache_itself: bool


@immutable
class TcacheGain:
    """Resident bytes that free() would have given back with another tcache_count, a forecast."""

    tcache_count: int
    released_bytes: int


@immutable
class ParkedEnd:
    """The end of an arena's last heap that nothing live keeps from shrinking, only chunks parked in
    thread caches, or caches themselves. ``chunk``: the highest of both; ``threads``: whose they
    are. ``gains``: the first one is for a tcache_count of 0."""

    arena_index: int
    chunk: int = field(metadata=HEX)
    parked_count: int
    parked_bytes: int
    tcache_struct_count: int
    threads: tuple[ParkedBy, ...]
    gains: tuple[TcacheGain, ...]

    @property
    def held_bytes(self) -> int:
        """Resident bytes that free() would have given back without caches."""
        return self.gains[0].released_bytes


@immutable
class ThreadCache:
    """A thread, the arena it is attached to, and what its tcache holds (chunk sizes)."""

    tid: int
    name: str
    arena_index: int | None
    tcache_address: int | None = field(metadata=HEX)
    tcache_count: int
    tcache_bytes: int


@immutable
class Setting:
    """A malloc setting in force. ``origin``: default, tunable, environment, mallopt, dynamic,
    unknown. ``without_effect``: the start environment asks for another value, in vain."""

    value: int | bool | str | None
    origin: str
    evidence: str
    without_effect: bool = False


@immutable
class Settings:
    """Settings in force, read from ``mp_`` in the target's memory, never from the environment
    alone."""

    arena_max: Setting
    arena_test: Setting
    arena_limit: int | None
    arena_count: int
    cpus_online: int | None
    cpus_cgroup: float | None
    mmap_threshold_bytes: Setting
    trim_threshold_bytes: Setting
    top_pad_bytes: Setting
    mmap_max: Setting
    thresholds_dynamic: bool
    tcache_count: Setting
    tcache_max_bytes: Setting
    hugetlb: Setting


@immutable
class ArenasData:
    """The answer of ``arenas``. ``glibc_says`` is None unless glibc was asked. What a core does not
    tell (RSS, page states) is None; its resident bytes are those of the pages that it holds, but
    for pages of zeros. ``page_holders`` and ``largest_free`` name the first
    few, by falling ``pages_held`` and ``size_bytes``. ``damage``: where a heap that stood still
    contradicts itself. ``parked_ends``: by falling ``held_bytes``."""

    rss_bytes: int | None
    arenas: tuple[Arena, ...]
    mmapped: Mmapped
    totals: Figures
    settings: Settings
    size_classes: tuple[SizeClass, ...]
    threads: tuple[ThreadCache, ...]
    glibc_says: GlibcSays | None = None
    page_holders: tuple[PageHolder, ...] = ()
    largest_free: tuple[LargeFree, ...] = ()
    damage: tuple[Damage, ...] = ()
    parked_ends: tuple[ParkedEnd, ...] = ()
