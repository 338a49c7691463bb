"""Layouts as data: one row per combination that a glibc release shipped. Nothing here decides
anything.

A layout is chosen by probing the target's memory (:mod:`allocscope.glibc.locate`), never by the
version: patches that change layouts were backported. Offsets in bytes, x86-64. Source:
malloc/malloc.c and malloc/arena.c of the releases, checked against the DWARF of distributions'
builds; the commit named is where a structure diverges from the one above it. A row's ``checked``
says which memory of that layout was really read; where it is empty the row is from the sources
alone, and has not been run.
"""

from __future__ import annotations

from allocscope.immutable import immutable, replace

WORD = 8
HEAP_MAX_BYTES = 64 << 20
BIN_COUNT = 127
"""Bins 1..127; bin 1 is unsorted, bin 127 is never used and therefore always self-linked."""


@immutable
class StateLayout:
    """``struct malloc_state``. ``fastbins`` and ``attached_threads`` are None where the
    release has none."""

    name: str
    size: int
    fastbins: int | None
    fastbin_count: int
    top: int
    bins: int
    next: int
    next_free: int
    attached_threads: int | None
    system_mem: int
    max_system_mem: int
    since: str

    @property
    def last_bin(self) -> int:
        """Offset of bin 127's fd, bk pair."""
        return self.bins + (BIN_COUNT - 1) * 2 * WORD


@immutable
class ParLayout:
    """``struct malloc_par`` (``mp_``). The first five words are the same everywhere:
    trim_threshold, top_pad, mmap_threshold, arena_test, arena_max. None: the release has no such
    member."""

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
    tcache_bins: int | None
    tcache_max_bytes: int | None
    tcache_count: int | None
    since: str


@immutable
class TcacheLayout:
    """``struct tcache_perthread_struct``: ``slot_count`` counters of ``counter_bytes`` each, then
    as many list heads.
    ``counts_free_slots``: the counters tell what is still free in a bin, not what it holds.
    ``key_is_address``: the second word of a parked chunk is the address of this struct.
    ``chunk_sizes``: sizes of the chunk that the struct itself lies in; each may be 16 larger, where
    the rest of the free chunk that served it was too small to stay one."""

    name: str
    slot_count: int
    counter_bytes: int
    entries: int
    chunk_sizes: tuple[int, ...]
    counts_free_slots: bool
    key_is_address: bool
    since: str

    @property
    def size(self) -> int:
        return self.entries + self.slot_count * WORD


@immutable
class Layout:
    """A row of the table: what belongs together in the releases ``versions``, and in what
    ``backports`` names; ``versions`` is empty where the row is of no libc.so.6.

    ``tcache`` is None before there was one. ``mmap_size_is_usable``: chunks with a mapping of their
    own store the length without header and offset (614cfd0f8a, 2.43). ``heap_max_by_huge_pages``:
    where hugetlb pages are used, a heap's largest size, and its alignment, is four of them (from
    2.35 on; 9f551e28a7 of 2.42 ended that). ``checked``: of which releases a process or a recorded
    core was read, and agreed with glibc's own figures."""

    versions: tuple[str, ...]
    state: StateLayout
    heap_info_bytes: int
    tcache: TcacheLayout | None
    par: ParLayout
    mmap_size_is_usable: bool = False
    heap_max_by_huge_pages: bool = False
    backports: str = ""
    checked: str = ""

    @property
    def name(self) -> str:
        tcache = "none" if self.tcache is None else self.tcache.name
        return f"{self.state.name}/heap{self.heap_info_bytes}/{tcache}/{self.par.name}"

    def heap_max_bytes(self, hp_pagesize: int) -> int:
        """The largest size of a thread heap, and its alignment. ``hp_pagesize``: ``mp_``'s, 0 where
        no hugetlb pages are used."""
        return 4 * hp_pagesize if self.heap_max_by_huge_pages and hp_pagesize else HEAP_MAX_BYTES


STATE_A = StateLayout(
    name="A",
    size=2184,
    fastbins=8,
    fastbin_count=10,
    top=88,
    bins=104,
    next=2152,
    next_free=2160,
    attached_threads=None,
    system_mem=2168,
    max_system_mem=2176,
    since="the oldest known here (2.17)",
)
STATE_B = replace(
    STATE_A,
    name="B",
    size=2192,
    attached_threads=2168,
    system_mem=2176,
    max_system_mem=2184,
    since="a62719ba90 (2.23): attached_threads",
)
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

PAR_1 = ParLayout(
    name="P1",
    size=88,
    thp_pagesize=None,
    hp_pagesize=None,
    hp_flags=None,
    n_mmaps=40,
    n_mmaps_max=44,
    max_n_mmaps=48,
    no_dyn_threshold=52,
    mmapped_mem=56,
    max_mmapped_mem=64,
    sbrk_base=80,
    tcache_bins=None,
    tcache_max_bytes=None,
    tcache_count=None,
    since="the oldest known here (2.17)",
)
PAR_2 = replace(PAR_1, name="P2", size=80, sbrk_base=72, since="2.24: max_total_mem removed")
PAR_3 = replace(
    PAR_2,
    name="P3",
    size=112,
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
PAR_4N = replace(
    PAR_4, name="P4n", size=104, tcache_bins=None, tcache_max_bytes=None, tcache_count=None
)
"""That of libc_malloc_debug.so.0, which is malloc.c built without tcache."""
PAR_5N = replace(
    PAR_5, name="P5n", size=112, tcache_bins=None, tcache_max_bytes=None, tcache_count=None
)
PAR_6 = _par("P6", 136, 48, 68, "2.44: tcache_unsorted_limit removed")

TCACHE_1 = TcacheLayout(
    name="T1",
    slot_count=64,
    counter_bytes=1,
    entries=64,
    chunk_sizes=(0x250, 0x260),
    counts_free_slots=False,
    key_is_address=False,
    since="d5c3fafc43 (2.26): tcache",
)
TCACHE_2 = replace(
    TCACHE_1, name="T2", key_is_address=True, since="4b246928bd (2.29): key is the struct's address"
)
TCACHE_3 = replace(
    TCACHE_2,
    name="T3",
    counter_bytes=2,
    entries=128,
    chunk_sizes=(0x290, 0x2A0),
    since="1f50f2ad85 (2.30): 16-bit counts",
)
TCACHE_4 = replace(TCACHE_3, name="T4", key_is_address=False, since="fc859c3048 (2.34): random key")
TCACHE_5 = replace(
    TCACHE_4,
    name="T5",
    slot_count=76,
    entries=152,
    chunk_sizes=(0x300, 0x310),
    counts_free_slots=True,
    since="7e10e30e64 (2.42): num_slots, large bins",
)
TCACHE_6 = replace(
    TCACHE_5,
    name="T6",
    chunk_sizes=(0x300, 0x310, 0x320),
    since="0b9210bd76 (2.43): 16 per bin",
)

LAYOUTS = (
    Layout(("2.17", "2.18", "2.19", "2.20", "2.21", "2.22"), STATE_A, 32, None, PAR_1),
    Layout(("2.23",), STATE_B, 32, None, PAR_1, backports="the branch of 2.22; RHEL 7.6's 2.17"),
    Layout(("2.24", "2.25"), STATE_B, 32, None, PAR_2),
    Layout(("2.26",), STATE_B, 32, TCACHE_1, PAR_3),
    Layout(
        ("2.27", "2.28"),
        STATE_C,
        32,
        TCACHE_1,
        PAR_3,
        backports="the branch of 2.26; Amazon Linux 2",
    ),
    Layout(
        ("2.29",),
        STATE_C,
        32,
        TCACHE_2,
        PAR_3,
        backports="the branches of 2.27, 2.28; RHEL 8.0",
        checked="2.27 (recorded core)",
    ),
    Layout(
        ("2.30", "2.31", "2.32", "2.33"),
        STATE_C,
        32,
        TCACHE_3,
        PAR_3,
        backports="the branches of 2.28, 2.29; RHEL 8.2",
        checked="2.31 (run)",
    ),
    Layout(("2.34",), STATE_C, 32, TCACHE_4, PAR_3, backports="RHEL 8.8's 2.28"),
    Layout(
        ("2.35", "2.36", "2.37", "2.38", "2.39", "2.40", "2.41"),
        STATE_C,
        48,
        TCACHE_4,
        PAR_4,
        heap_max_by_huge_pages=True,
        checked="2.36, 2.41 (run), 2.39 (recorded core)",
    ),
    Layout(("2.42",), STATE_C, 48, TCACHE_5, PAR_4),
    Layout(("2.43",), STATE_D, 48, TCACHE_6, PAR_5, True, checked="2.43 (run)"),
    Layout(("2.44",), STATE_D, 48, TCACHE_6, PAR_6, True, checked="2.44 (run)"),
)

MALLOC_DEBUG_LAYOUTS = (
    Layout((), STATE_C, 32, None, PAR_2, backports="libc_malloc_debug of 2.34"),
    Layout(
        (),
        STATE_C,
        48,
        None,
        PAR_4N,
        backports="libc_malloc_debug of 2.35, 2.36 … 2.41, 2.42",
        checked="its 2.36, 2.41 (run)",
    ),
    Layout(
        (),
        STATE_D,
        48,
        None,
        PAR_5N,
        True,
        backports="libc_malloc_debug of 2.43, 2.44",
        checked="its 2.43, 2.44 (run)",
    ),
)
"""Those of libc_malloc_debug.so.0, and tried for that library alone: without a tcache a row demands
less, and would also fit a libc whose tcache is not known."""
