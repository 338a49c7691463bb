"""What the chunk walk is asked and what it answers."""

from __future__ import annotations

from collections.abc import Sequence

from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX
from allocscope.model.heap import SizeClass


@immutable
class Residency:
    """Page states of an address range, in bytes. The zero page counts as zero, not as resident."""

    resident_bytes: int
    swapped_bytes: int
    huge_bytes: int
    zero_bytes: int


@immutable
class FastLists:
    """Which chunks in use may be in an arena's fastbins: those of ``sizes`` (in bytes; others of
    the same size class with them), whose mangled link leads into ``[low, high)`` or is the last."""

    sizes: tuple[int, ...]
    low: int = field(metadata=HEX)
    high: int = field(metadata=HEX)


@immutable
class Region:
    """One contiguous row of chunks to walk; the meaning of each field is in probes/include/walk.h.
    Address lists are sorted."""

    start: int = field(metadata=HEX)
    first: int = field(metadata=HEX)
    limit: int = field(metadata=HEX)
    map_end: int = field(metadata=HEX)
    top: int = field(metadata=HEX)
    trim_unit: int
    trim_pad: int
    merge_fastbins: bool
    tcache: Sequence[int]
    fastbin: Sequence[int]
    tcache_struct: Sequence[int]
    known: Sequence[int]
    locked: Sequence[int] = ()
    hugetlb: bool = False
    pins: bool = False
    """Whether to look for what holds free memory (probes/include/pins.h): slower."""
    in_doubt: FastLists | None = None
    """Where the chunks in fastbins are not known beforehand: the walk keeps those that may be
    (probes/include/doubts.h). Not together with ``locked``, ``pins``, words and cells."""
    joins: bool = False
    """Does the chunk before ``first`` belong to the same row?"""


STOP_LIMIT, STOP_TOP, STOP_FENCEPOST, STOP_DAMAGE, STOP_DEADLINE, STOP_BROKEN_TOP = range(6)


@immutable
class Words:
    """Words of memory, page by page, as the native helper lays them out (as_page and its words,
    probes/include/words.h)."""

    pages: bytes
    words: bytes


MOST_LARGEST = 10
"""As many free chunks does a tally name (AS_LARGEST in probes/include/walk.h)."""


@immutable
class FreeChunk:
    """A chunk in a bin, or top."""

    address: int
    size_bytes: int
    resident_bytes: int


@immutable
class Pinning:
    """Free bytes on resident pages on which all live chunks are of one size class, and how many
    these chunks are."""

    min_bytes: int
    max_bytes: int
    live_count: int
    pinned_bytes: int


HELD_NOTHING, HELD_LIVE, HELD_TCACHE, HELD_FASTBIN, HELD_STRUCT = range(5)


@immutable
class Pins:
    """What holds free memory in a row of chunks; the meaning of each field is in
    probes/include/pins.h."""

    last: int = field(metadata=HEX)
    last_size: int
    last_kind: int
    run_start: int = field(metadata=HEX)
    run_count: int
    below_start: int = field(metadata=HEX)
    mixed_bytes: int
    parked_bytes: int
    classes: tuple[Pinning, ...]


@immutable
class Tally:
    """The sums over one region; the meaning of each field is in probes/include/walk.h. ``largest``:
    free chunks by falling size. ``words``: what the walk looked at, and ``cells``: what each page
    of [start, map_end) is used for (model/page_map.py), both only where they were asked for."""

    live_bytes: int
    live_count: int
    tcache_bytes: int
    tcache_count: int
    fastbin_bytes: int
    fastbin_count: int
    bin_bytes: int
    bin_count: int
    top_bytes: int
    fencepost_bytes: int
    tcache_struct_bytes: int
    unread_bytes: int
    tcache_resident_bytes: int
    fastbin_resident_bytes: int
    bin_resident_bytes: int
    top_resident_bytes: int
    trimmable_bytes: int
    pinned_bytes: int
    trim_range_count: int
    live_resident_bytes: int
    tcache_struct_resident_bytes: int
    fencepost_resident_bytes: int
    unread_resident_bytes: int
    before_resident_bytes: int
    beyond_resident_bytes: int
    bin_trimmable_bytes: int
    bin_whole_bytes: int
    top_trimmable_bytes: int
    last_live: int = field(metadata=HEX)
    last_live_bytes: int
    trim_break_bytes: int
    locked_trim_bytes: int
    bin_locked_bytes: int
    pages: Residency
    bin_node_hash: int
    bin_fd_hash: int
    bin_bk_hash: int
    footer_mismatch_count: int
    missed_mark_count: int
    cut_at_top_count: int
    damage_count: int
    first_damage: int = field(metadata=HEX)
    before_damage: int = field(metadata=HEX)
    first_footer_mismatch: int = field(metadata=HEX)
    stopped_at: int = field(metadata=HEX)
    stop_reason: int
    classes: tuple[SizeClass, ...]
    largest: tuple[FreeChunk, ...] = ()
    words: Words | None = field(default=None, compare=False, repr=False)
    cells: bytes | None = field(default=None, compare=False, repr=False)
    pins: Pins | None = field(default=None, compare=False, repr=False)
    doubts: tuple[object, ...] = field(default=(), compare=False, repr=False)
    """What the walks of the row's parts keep of chunks in doubt, for Walker.settle: these chunks
    are in none of the sums."""

    @property
    def row_resident_bytes(self) -> int:
        """Resident bytes of the row's chunks, header by header, and of what was left unread."""
        return (
            self.live_resident_bytes
            + self.tcache_resident_bytes
            + self.fastbin_resident_bytes
            + self.bin_resident_bytes
            + self.top_resident_bytes
            + self.fencepost_resident_bytes
            + self.tcache_struct_resident_bytes
            + self.unread_resident_bytes
        )
