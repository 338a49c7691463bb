"""Layouts as data: one row per combination that a glibc release shipped. Nothing here decides
anything.

A structure is written down as its members in order; offsets follow from the width of a word, as the
compiler computes them, so that a row holds for 64-bit machines (x86-64 and aarch64 alike) and for
i386. A layout is chosen by probing the target's memory (:mod:`allocscope.glibc.locate`), never by
the version: patches that change layouts were backported. Source: malloc/malloc.c and malloc/arena.c
of the releases, checked against the DWARF of distributions' builds; the commit named is where a
structure diverges from the one above it. A row's ``checked`` says which memory of that layout was
really read; where it is empty the row is from the sources alone, and has not been run.
"""

from __future__ import annotations

import functools

from allocscope.glibc.abi import NARROW, NARROW_TO_2_25, WIDE, Abi
from allocscope.immutable import immutable
from allocscope.model.libc import AARCH64, I386, X86_64

WORD = 8
"""Of a 64-bit program, for what is read of those alone."""
BIN_COUNT = 127
"""Bins 1..127; bin 1 is unsorted, bin 127 is never used and therefore always self-linked."""


@immutable
class StateLayout:
    """``struct malloc_state``. ``fastbins`` and ``attached_threads`` are None where the
    release has none."""

    name: str
    abi: Abi
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
        return self.bins + (BIN_COUNT - 1) * self.abi.header_bytes


@immutable
class ParLayout:
    """``struct malloc_par`` (``mp_``). The first five words are the same everywhere:
    trim_threshold, top_pad, mmap_threshold, arena_test, arena_max. None: the release has no such
    member."""

    name: str
    abi: Abi
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
    the rest of the free chunk that served it was too small to stay one.
    ``made_at_first_free``: not when its thread first allocates, and never where tcache_count is
    0."""

    name: str
    abi: Abi
    slot_count: int
    counter_bytes: int
    chunk_sizes: tuple[int, ...]
    counts_free_slots: bool
    key_is_address: bool
    since: str
    made_at_first_free: bool = False

    @property
    def entries(self) -> int:
        return self.slot_count * self.counter_bytes

    @property
    def size(self) -> int:
        return self.entries + self.slot_count * self.abi.word_bytes


@immutable
class Layout:
    """A row of the table: what belongs together in the releases ``versions``, and in what
    ``backports`` names; ``versions`` is empty where the row is of no libc.so.6.

    ``tcache`` is None before there was one. ``mmap_size_is_usable``: chunks with a mapping of their
    own store the length without header and offset (614cfd0f8a, 2.43). ``heap_max_by_huge_pages``:
    where hugetlb pages are used, a heap's largest size, and its alignment, is four of them (from
    2.35 on; 9f551e28a7 of 2.42 ended that). ``checked``: of which releases a process or a recorded
    core was read, and agreed with glibc's own figures, by machine."""

    versions: tuple[str, ...]
    state: StateLayout
    heap_info_bytes: int
    tcache: TcacheLayout | None
    par: ParLayout
    mmap_size_is_usable: bool
    heap_max_by_huge_pages: bool
    backports: str
    checked: tuple[tuple[str, str], ...]

    @property
    def abi(self) -> Abi:
        return self.state.abi

    @property
    def name(self) -> str:
        tcache = "none" if self.tcache is None else self.tcache.name
        return f"{self.state.name}/heap{self.heap_info_bytes}/{tcache}/{self.par.name}"

    def heap_max_bytes(self, hp_pagesize: int) -> int:
        """The largest size of a thread heap, and its alignment. ``hp_pagesize``: ``mp_``'s, 0 where
        no hugetlb pages are used."""
        if self.heap_max_by_huge_pages and hp_pagesize:
            return 4 * hp_pagesize
        return self.abi.heap_max_bytes

    def heaps_on_hugetlb(self, hp_pagesize: int) -> bool:
        """Whether heaps, the main one too, are made of hugetlb pages, and brk is never used. Where
        their largest size does not follow the pages', pages larger than that serve only chunks with
        mappings of their own (9f551e28a7, 2.42)."""
        return 0 < hp_pagesize <= self.heap_max_bytes(hp_pagesize)


# ---- structures, as their members in order ----


@immutable
class Struct:
    """``members``: words, and ints where the name ends in ``:int``; ``[N]`` is an array."""

    name: str
    members: str
    since: str

    def offsets(self, abi: Abi) -> tuple[dict[str, int], int]:
        """Each member's offset, and the size of all, as the compiler aligns them."""
        found: dict[str, int] = {}
        at = 0
        for member in self.members.split():
            name, _, length = member.rstrip("]").partition("[")
            name, _, kind = name.partition(":")
            unit = 4 if kind == "int" else abi.word_bytes
            at = _up(at, unit)
            found[name] = at
            at += unit * (abi.fastbin_count if length == "NFASTBINS" else int(length or 1))
        return found, _up(at, abi.word_bytes)


@immutable
class TcacheStruct:
    """``larger``: how many alignments its chunk may be larger than it needs."""

    name: str
    slot_count: int
    counter_bytes: int
    larger: int
    counts_free_slots: bool
    key_is_address: bool
    since: str
    made_at_first_free: bool = False


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


_LOCK = "mutex:int flags:int "
_BINS = "top last_remainder bins[254] binmap:int[4] next next_free "
_SYSTEM = "system_mem max_system_mem"
STATE_A = Struct("A", f"{_LOCK} fastbins[NFASTBINS] {_BINS} {_SYSTEM}", "the oldest known (2.17)")
STATE_B = Struct(
    "B",
    f"{_LOCK} fastbins[NFASTBINS] {_BINS} attached_threads {_SYSTEM}",
    "a62719ba90 (2.23): attached_threads",
)
STATE_C = Struct(
    "C",
    f"{_LOCK} have_fastchunks:int fastbins[NFASTBINS] {_BINS} attached_threads {_SYSTEM}",
    "e956075a5a (2.27): have_fastchunks",
)
STATE_D = Struct(
    "D", f"{_LOCK} {_BINS} attached_threads {_SYSTEM}", "bb5a4f5295 (2.43): fastbins removed"
)

_FIRST = "trim_threshold top_pad mmap_threshold arena_test arena_max "
_HUGE = "thp_pagesize hp_pagesize hp_flags:int "
_COUNTERS = "n_mmaps:int n_mmaps_max:int max_n_mmaps:int no_dyn_threshold:int "
_MAPPED = "mmapped_mem max_mmapped_mem "
_TCACHE = "tcache_bins tcache_max_bytes tcache_count "
PAR_1 = Struct(
    "P1", f"{_FIRST} {_COUNTERS} {_MAPPED} max_total_mem sbrk_base", "the oldest known (2.17)"
)
PAR_2 = Struct("P2", f"{_FIRST} {_COUNTERS} {_MAPPED} sbrk_base", "2.24: max_total_mem removed")
PAR_3 = Struct(
    "P3",
    f"{_FIRST} {_COUNTERS} {_MAPPED} sbrk_base {_TCACHE} tcache_unsorted_limit",
    "d5c3fafc43 (2.26): tcache",
)
PAR_4 = Struct(
    "P4",
    f"{_FIRST} {_HUGE} {_COUNTERS} {_MAPPED} sbrk_base {_TCACHE} tcache_unsorted_limit",
    "7478c9959a (2.35): hugetlb tunable",
)
PAR_4N = Struct(
    "P4n",
    f"{_FIRST} {_HUGE} {_COUNTERS} {_MAPPED} sbrk_base",
    "7478c9959a (2.35), without tcache: that of libc_malloc_debug.so.0",
)
PAR_5 = Struct(
    "P5",
    f"{_FIRST} thp_mode:int {_HUGE} {_COUNTERS} {_MAPPED} sbrk_base {_TCACHE} "
    "tcache_unsorted_limit",
    "321e1fc73f (2.43): thp_mode",
)
PAR_5N = Struct(
    "P5n",
    f"{_FIRST} thp_mode:int {_HUGE} {_COUNTERS} {_MAPPED} sbrk_base",
    "321e1fc73f (2.43), without tcache: that of libc_malloc_debug.so.0",
)
PAR_6 = Struct(
    "P6",
    f"{_FIRST} thp_mode:int {_HUGE} {_COUNTERS} {_MAPPED} sbrk_base {_TCACHE}",
    "2.44: tcache_unsorted_limit removed",
)

TCACHE_1 = TcacheStruct("T1", 64, 1, 1, False, False, "d5c3fafc43 (2.26): tcache")
TCACHE_2 = TcacheStruct("T2", 64, 1, 1, False, True, "4b246928bd (2.29): key is its address")
TCACHE_3 = TcacheStruct("T3", 64, 2, 1, False, True, "1f50f2ad85 (2.30): 16-bit counts")
TCACHE_4 = TcacheStruct("T4", 64, 2, 1, False, False, "fc859c3048 (2.34): random key")
TCACHE_5 = TcacheStruct("T5", 76, 2, 1, True, False, "7e10e30e64 (2.42): num_slots, large bins")
TCACHE_6 = TcacheStruct("T6", 76, 2, 2, True, False, "0b9210bd76 (2.43): 16 per bin", True)


# ---- the same for a machine ----


def state_layout(struct: Struct, abi: Abi) -> StateLayout:
    offsets, size = struct.offsets(abi)
    return StateLayout(
        # i386 had fewer fastbins up to 2.25
        name="B11" if struct is STATE_B and abi.fastbin_count == 11 else struct.name,
        abi=abi,
        size=size,
        fastbins=offsets.get("fastbins"),
        fastbin_count=abi.fastbin_count if "fastbins" in offsets else 0,
        top=offsets["top"],
        bins=offsets["bins"],
        next=offsets["next"],
        next_free=offsets["next_free"],
        attached_threads=offsets.get("attached_threads"),
        system_mem=offsets["system_mem"],
        max_system_mem=offsets["max_system_mem"],
        since=struct.since,
    )


def par_layout(struct: Struct, abi: Abi) -> ParLayout:
    offsets, size = struct.offsets(abi)
    return ParLayout(
        name=struct.name,
        abi=abi,
        size=size,
        thp_pagesize=offsets.get("thp_pagesize"),
        hp_pagesize=offsets.get("hp_pagesize"),
        hp_flags=offsets.get("hp_flags"),
        n_mmaps=offsets["n_mmaps"],
        n_mmaps_max=offsets["n_mmaps_max"],
        max_n_mmaps=offsets["max_n_mmaps"],
        no_dyn_threshold=offsets["no_dyn_threshold"],
        mmapped_mem=offsets["mmapped_mem"],
        max_mmapped_mem=offsets["max_mmapped_mem"],
        sbrk_base=offsets["sbrk_base"],
        tcache_bins=offsets.get("tcache_bins"),
        tcache_max_bytes=offsets.get("tcache_max_bytes"),
        tcache_count=offsets.get("tcache_count"),
        since=struct.since,
    )


def tcache_layout(struct: TcacheStruct, abi: Abi) -> TcacheLayout:
    needed = abi.chunk_bytes(struct.slot_count * (struct.counter_bytes + abi.word_bytes))
    return TcacheLayout(
        name=struct.name,
        abi=abi,
        slot_count=struct.slot_count,
        counter_bytes=struct.counter_bytes,
        chunk_sizes=tuple(needed + n * abi.alignment for n in range(struct.larger + 1)),
        counts_free_slots=struct.counts_free_slots,
        key_is_address=struct.key_is_address,
        since=struct.since,
        made_at_first_free=struct.made_at_first_free,
    )


def heap_info_bytes(words: int, abi: Abi) -> int:
    """sizeof(heap_info): arena, prev, size, mprotect_size, and from 2.35 on pagesize; padded so
    that the first chunk behind it is aligned."""
    return abi.first_chunk(words * abi.word_bytes)


@immutable
class Release:
    """A row as glibc's source has it, for any machine. ``malloc_debug``: of libc_malloc_debug.so.0,
    which is malloc.c built without a tcache."""

    versions: str
    state: Struct
    tcache: TcacheStruct | None
    par: Struct
    backports: str = ""
    checked: tuple[tuple[str, str], ...] = ()
    malloc_debug: bool = False

    def layout(self, abi: Abi) -> Layout:
        minor = int(self.versions.split()[0].partition(".")[2])
        return Layout(
            versions=() if self.malloc_debug else tuple(self.versions.split()),
            state=state_layout(self.state, abi),
            heap_info_bytes=heap_info_bytes(5 if minor >= 35 else 4, abi),
            tcache=None if self.tcache is None else tcache_layout(self.tcache, abi),
            par=par_layout(self.par, abi),
            mmap_size_is_usable=minor >= 43,
            heap_max_by_huge_pages=35 <= minor < 42 and not self.malloc_debug,
            backports=self.backports,
            checked=self.checked,
        )


RELEASES = (
    Release("2.17 2.18 2.19 2.20 2.21 2.22", STATE_A, None, PAR_1),
    Release("2.23", STATE_B, None, PAR_1, "the branch of 2.22; RHEL 7.6's 2.17"),
    Release("2.24 2.25", STATE_B, None, PAR_2),
    Release("2.26", STATE_B, TCACHE_1, PAR_3),
    Release("2.27 2.28", STATE_C, TCACHE_1, PAR_3, "the branch of 2.26; Amazon Linux 2"),
    Release(
        "2.29",
        STATE_C,
        TCACHE_2,
        PAR_3,
        "the branches of 2.27, 2.28; RHEL 8.0",
        ((X86_64, "2.27 (recorded core)"),),
    ),
    Release(
        "2.30 2.31 2.32 2.33",
        STATE_C,
        TCACHE_3,
        PAR_3,
        "the branches of 2.28, 2.29; RHEL 8.2",
        ((X86_64, "2.31 (run)"), (I386, "2.31 (run)"), (AARCH64, "2.31 (core)")),
    ),
    Release("2.34", STATE_C, TCACHE_4, PAR_3, "RHEL 8.8's 2.28"),
    Release(
        "2.35 2.36 2.37 2.38 2.39 2.40 2.41",
        STATE_C,
        TCACHE_4,
        PAR_4,
        "",
        (
            (X86_64, "2.36, 2.41 (run), 2.39 (recorded core)"),
            (I386, "2.36, 2.41 (run)"),
            (AARCH64, "2.36, 2.41 (core)"),
        ),
    ),
    Release("2.42", STATE_C, TCACHE_5, PAR_4),
    Release(
        "2.43",
        STATE_D,
        TCACHE_6,
        PAR_5,
        "",
        ((X86_64, "2.43 (run)"), (I386, "2.43 (run)"), (AARCH64, "2.43 (core)")),
    ),
    Release(
        "2.44",
        STATE_D,
        TCACHE_6,
        PAR_6,
        "",
        ((X86_64, "2.44 (run)"), (I386, "2.44 (run)"), (AARCH64, "2.44 (core; P5 fits it too)")),
    ),
)


MALLOC_DEBUG_RELEASES = (
    Release("2.34", STATE_C, None, PAR_2, "libc_malloc_debug of 2.34", malloc_debug=True),
    Release(
        "2.35",
        STATE_C,
        None,
        PAR_4N,
        "libc_malloc_debug of 2.35, 2.36 … 2.41, 2.42",
        ((X86_64, "its 2.36, 2.41 (run)"), (I386, "its 2.36, 2.41 (run)")),
        malloc_debug=True,
    ),
    Release(
        "2.43",
        STATE_D,
        None,
        PAR_5N,
        "libc_malloc_debug of 2.43, 2.44",
        ((X86_64, "its 2.43, 2.44 (run)"), (I386, "its 2.43, 2.44 (run)")),
        malloc_debug=True,
    ),
)
"""Those of libc_malloc_debug.so.0, and tried for that library alone: without a tcache a row demands
less, and would also fit a libc whose tcache is not known."""


def rows_of(abi: Abi) -> tuple[Layout, ...]:
    """The table for words of that width: the same on x86-64 and aarch64."""
    return wide_layouts() if abi.word_bytes == 8 else narrow_layouts()


def malloc_debug_rows_of(abi: Abi) -> tuple[Layout, ...]:
    """The table for libc_malloc_debug.so.0."""
    return wide_malloc_debug_layouts() if abi.word_bytes == 8 else narrow_malloc_debug_layouts()


@functools.cache
def wide_layouts() -> tuple[Layout, ...]:
    """x86-64 and aarch64."""
    return tuple(release.layout(WIDE) for release in RELEASES)


@functools.cache
def narrow_layouts() -> tuple[Layout, ...]:
    """i386, which aligns to 16 since the release that brought the tcache (4e61a6be44, 2.26)."""
    return tuple(
        release.layout(NARROW_TO_2_25 if release.tcache is None else NARROW) for release in RELEASES
    )


@functools.cache
def wide_malloc_debug_layouts() -> tuple[Layout, ...]:
    return tuple(release.layout(WIDE) for release in MALLOC_DEBUG_RELEASES)


@functools.cache
def narrow_malloc_debug_layouts() -> tuple[Layout, ...]:
    return tuple(release.layout(NARROW) for release in MALLOC_DEBUG_RELEASES)
