"""Layouts as data: one row per combination that a glibc release shipped. Nothing here decides
anything.

A layout is chosen by probing the target's memory (:mod:`allocscope.glibc.locate`), never by the
version: patches that change layouts were backported. Offsets in bytes, x86-64. Source:
malloc/malloc.c and malloc/arena.c of the releases, checked against the DWARF of distributions'
builds; the commit named is where the row diverges from the one above it.
"""

from __future__ import annotations

import dataclasses

WORD = 8
HEAP_MAX_BYTES = 64 << 20
BIN_COUNT = 127
"""Bins 1..127; bin 1 is unsorted, bin 127 is never used and therefore always self-linked."""


@dataclasses.dataclass(frozen=True, slots=True)
class StateLayout:
    """``struct malloc_state``. ``fastbins`` is None where the release has none."""

    name: str
    size: int
    fastbins: int | None
    fastbin_count: int
    top: int
    bins: int
    next: int
    next_free: int
    attached_threads: int
    system_mem: int
    max_system_mem: int
    since: str

    @property
    def last_bin(self) -> int:
        """Offset of bin 127's fd, bk pair."""
        return self.bins + (BIN_COUNT - 1) * 2 * WORD


@dataclasses.dataclass(frozen=True, slots=True)
class ParLayout:
    """``struct malloc_par`` (``mp_``). The first five words are the same everywhere:
    trim_threshold, top_pad, mmap_threshold, arena_test, arena_max."""

    name: str
    size: int
    thp_pagesize: int | None
    hp_pagesize: int | None
    hp_flags: int | None
    n_mmaps: int
    n_mmaps_max: int
    max_n_mmaps: int
    no_dyn_threshold: int
    mmapped_mem: int
    max_mmapped_mem: int
    sbrk_base: int
    tcache_bins: int
    tcache_max_bytes: int
    tcache_count: int
    since: str


@dataclasses.dataclass(frozen=True, slots=True)
class TcacheLayout:
    """``struct tcache_perthread_struct``: ``slot_count`` 16-bit counters, then as many list heads.
    ``counts_free_slots``: the counters tell what is still free in a bin, not what it holds.
    ``chunk_sizes``: sizes of the chunk that the struct itself lies in; each may be 16 larger, where
    the rest of the free chunk that served it was too small to stay one."""

    name: str
    slot_count: int
    entries: int
    chunk_sizes: tuple[int, ...]
    counts_free_slots: bool
    since: str

    @property
    def size(self) -> int:
        return self.entries + self.slot_count * WORD


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """A row of the table: what belongs together in the releases ``versions``."""

    versions: tuple[str, ...]
    state: StateLayout
    heap_info_bytes: int
    tcache: TcacheLayout
    par: ParLayout
    mmap_size_is_usable: bool
    """Chunks with a mapping of their own store the length without header and offset (614cfd0f8a,
    2.43)."""

    @property
    def name(self) -> str:
        return f"{self.state.name}/heap{self.heap_info_bytes}/{self.tcache.name}/{self.par.name}"


STATE_C = StateLayout(
    name="C",
    size=2200,
    fastbins=16,
    fastbin_count=10,
    top=96,
    bins=112,
    next=2160,
    next_free=2168,
    attached_threads=2176,
    system_mem=2184,
    max_system_mem=2192,
    since="e956075a5a (2.27): have_fastchunks",
)
STATE_D = StateLayout(
    name="D",
    size=2112,
    fastbins=None,
    fastbin_count=0,
    top=8,
    bins=24,
    next=2072,
    next_free=2080,
    attached_threads=2088,
    system_mem=2096,
    max_system_mem=2104,
    since="bb5a4f5295 (2.43): fastbins removed",
)

PAR_3 = ParLayout(
    name="P3",
    size=112,
    thp_pagesize=None,
    hp_pagesize=None,
    hp_flags=None,
    n_mmaps=40,
    n_mmaps_max=44,
    max_n_mmaps=48,
    no_dyn_threshold=52,
    mmapped_mem=56,
    max_mmapped_mem=64,
    sbrk_base=72,
    tcache_bins=80,
    tcache_max_bytes=88,
    tcache_count=96,
    since="d5c3fafc43 (2.26): tcache",
)


def _par(name: str, size: int, thp: int, first_int: int, since: str) -> ParLayout:
    """From 2.35 on the huge-page members stand before the counters; the rest keeps its order."""
    return ParLayout(
        name=name,
        size=size,
        thp_pagesize=thp,
        hp_pagesize=thp + 8,
        hp_flags=thp + 16,
        n_mmaps=first_int,
        n_mmaps_max=first_int + 4,
        max_n_mmaps=first_int + 8,
        no_dyn_threshold=first_int + 12,
        mmapped_mem=first_int + 20,
        max_mmapped_mem=first_int + 28,
        sbrk_base=first_int + 36,
        tcache_bins=first_int + 44,
        tcache_max_bytes=first_int + 52,
        tcache_count=first_int + 60,
        since=since,
    )


PAR_4 = _par("P4", 136, 40, 60, "7478c9959a (2.35): hugetlb tunable")
PAR_5 = _par("P5", 144, 48, 68, "321e1fc73f (2.43): thp_mode")
PAR_6 = _par("P6", 136, 48, 68, "2.44: tcache_unsorted_limit removed")

TCACHE_3 = TcacheLayout(
    "T3",
    64,
    128,
    (0x290, 0x2A0),
    False,
    "1f50f2ad85 (2.30): 16-bit counts, key is the struct's address",
)
TCACHE_4 = TcacheLayout("T4", 64, 128, (0x290, 0x2A0), False, "fc859c3048 (2.34): random key")
TCACHE_5 = TcacheLayout(
    "T5", 76, 152, (0x300, 0x310), True, "7e10e30e64 (2.42): num_slots, large bins"
)
TCACHE_6 = TcacheLayout("T6", 76, 152, (0x300, 0x310, 0x320), True, "0b9210bd76 (2.43): 16 per bin")

LAYOUTS = (
    Layout(("2.31", "2.32", "2.33"), STATE_C, 32, TCACHE_3, PAR_3, False),
    Layout(("2.34",), STATE_C, 32, TCACHE_4, PAR_3, False),
    Layout(
        ("2.35", "2.36", "2.37", "2.38", "2.39", "2.40", "2.41"),
        STATE_C,
        48,
        TCACHE_4,
        PAR_4,
        False,
    ),
    Layout(("2.42",), STATE_C, 48, TCACHE_5, PAR_4, False),
    Layout(("2.43",), STATE_D, 48, TCACHE_6, PAR_5, True),
    Layout(("2.44",), STATE_D, 48, TCACHE_6, PAR_6, True),
)
