"""A whole made-up malloc: libc's data with main_arena and mp_, heaps, threads and their tcaches.

Strategy: the tables below say where each release keeps what (64-bit; glibc malloc/malloc.c,
malloc/arena.c); a Malloc is filled with rows of chunks (heaps.py), threads and mappings, and
written once. What a reading of it must find follows from the lists of chunks that were put in.
"""

from __future__ import annotations

import dataclasses
import struct

from unit.heaps import PAGE, Image, Row, linked

from allocscope.files.spans import SpanMemory
from allocscope.glibc.locate import Located, locate
from allocscope.glibc.reading import Subject
from allocscope.glibc.threads import ThreadHead

HEAP_BYTES = 64 << 20
BRK = 0x555555600000
HEAPS = 0x7F0000000000
LIBC_DATA = 0x7F8000000000
LIBC_RODATA = 0x7F7FFFF00000
STACKS = 0x7F9000000000
MAPPINGS = 0x7FA000000000

STATE_TO_2_42 = {
    "size": 2200,
    "fastbins": 16,
    "top": 96,
    "bins": 112,
    "next": 2160,
    "attached_threads": 2176,
    "system_mem": 2184,
    "max_system_mem": 2192,
}
STATE_FROM_2_43 = {
    "size": 2112,
    "top": 8,
    "bins": 24,
    "next": 2072,
    "attached_threads": 2088,
    "system_mem": 2096,
    "max_system_mem": 2104,
}

PAR_WORDS = ("trim_threshold", "top_pad", "mmap_threshold", "arena_test", "arena_max")
PAR_HUGE = ("thp_pagesize", "hp_pagesize", "hp_flags:int")
PAR_COUNTERS = ("n_mmaps:int", "n_mmaps_max:int", "max_n_mmaps:int", "no_dyn_threshold:int")
PAR_SUMS = ("mmapped_mem", "max_mmapped_mem", "sbrk_base")
PAR_TCACHE = ("tcache_bins", "tcache_max_bytes", "tcache_count")
UNSORTED = ("tcache_unsorted_limit",)
PAR_TO_2_34 = PAR_WORDS + PAR_COUNTERS + PAR_SUMS + PAR_TCACHE + UNSORTED
PAR_TO_2_42 = PAR_WORDS + PAR_HUGE + PAR_COUNTERS + PAR_SUMS + PAR_TCACHE + UNSORTED
PAR_2_44 = (*PAR_WORDS, "thp_mode:int", *PAR_HUGE, *PAR_COUNTERS, *PAR_SUMS, *PAR_TCACHE)
PAR_2_43 = PAR_2_44 + UNSORTED

PAR_START = {
    "trim_threshold": 0x20000,
    "top_pad": 0x20000,
    "mmap_threshold": 0x20000,
    "arena_test": 8,
    "n_mmaps_max": 65536,
    "tcache_bins": 64,
}


@dataclasses.dataclass(frozen=True)
class Release:
    """What differs between releases."""

    state: dict[str, int]
    par: tuple[str, ...]
    heap_info_bytes: int
    mangled: bool
    tcache_bins: int
    tcache_chunk: int
    fill: int
    counts_free_slots: bool
    mmap_size_is_usable: bool


def _par_fields(minor: int) -> tuple[str, ...]:
    if minor >= 43:
        return PAR_2_44 if minor >= 44 else PAR_2_43
    return PAR_TO_2_42 if minor >= 35 else PAR_TO_2_34


def _release(minor: int) -> Release:
    return Release(
        state=STATE_FROM_2_43 if minor >= 43 else STATE_TO_2_42,
        par=_par_fields(minor),
        heap_info_bytes=48 if minor >= 35 else 32,
        mangled=minor >= 32,
        tcache_bins=76 if minor >= 42 else 64,
        tcache_chunk=0x300 if minor >= 42 else 0x290,
        fill=16 if minor >= 43 else 7,
        counts_free_slots=minor >= 42,
        mmap_size_is_usable=minor >= 43,
    )


RELEASES = {f"2.{minor}": _release(minor) for minor in (31, 32, 34, 35, 36, 41, 42, 43, 44)}


def up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


@dataclasses.dataclass
class Arena:
    """``rows``: in address order. ``heaps``: starts of a thread arena's heaps, a row for each."""

    address: int
    rows: list[Row]
    heaps: list[int] = dataclasses.field(default_factory=list)
    further_rw_bytes: int = 0
    attached_threads: int = 1
    lock_word: int = 0
    flags: int = 0
    system_bytes: int | None = None

    @property
    def row(self) -> Row:
        return self.rows[-1]

    def end_at_page(self, more_pages: int = 0) -> None:
        """The last row's top reaches to the end of a page."""
        self.row.top(up(self.row.end + 32, PAGE) + more_pages * PAGE - self.row.end)

    def count(self, kind: str) -> int:
        return sum(len(row.addresses(kind)) for row in self.rows)

    def bytes(self, kind: str) -> int:
        return sum(c.size for row in self.rows for c in row.chunks if c.kind == kind)


@dataclasses.dataclass
class Thread:
    """``tcache``: the address of the struct (behind its chunk's header), 0 for none. ``bins``: user
    pointers by bin, first one first."""

    tid: int
    tcb: int
    arena: Arena
    tcache: int = 0
    bins: dict[int, list[int]] = dataclasses.field(default_factory=dict)

    ARENA_OFFSET = -56
    TCACHE_OFFSET = -72
    ROBUST_LIST_OFFSET = 0x2E0

    def make_tcache(self, size: int) -> None:
        """The struct lies in a chunk of the thread's arena."""
        self.tcache = self.arena.row.tcache_struct(size).address + 16

    def park(self, row: Row, size: int) -> None:
        """The next chunk of the row is in this thread's tcache."""
        self.bins.setdefault((size - 32) // 16, []).insert(0, row.cached(size).address + 16)


class Malloc:
    """One process's malloc."""

    def __init__(self, version: str = "2.36", *, sbrk_base: int = BRK) -> None:
        self.version = version
        self.release = RELEASES[version]
        self.image = Image()
        self.main_arena = LIBC_DATA + 0xC80
        self.par_address = LIBC_DATA + 0x360
        self.sbrk_base = sbrk_base
        self.main = Arena(self.main_arena, [Row(up(sbrk_base, 16))])
        self.arenas = [self.main]  # in ring order
        self.threads: list[Thread] = []
        self.mappings: list[tuple[int, int]] = []
        self.main_mappings: list[Row] = []
        self.foreign_bytes = 0
        self.par: dict[str, int] = {
            **PAR_START,
            "sbrk_base": sbrk_base,
            "tcache_count": self.release.fill,
            "tcache_max_bytes": 0x411 if version >= "2.42" else 0x408,
        }

    # ---- filling it ----

    def arena(self) -> Arena:
        """A new thread arena; the ring has it right behind main_arena."""
        start = HEAPS + sum(len(arena.heaps) for arena in self.arenas) * 4 * HEAP_BYTES
        address = start + self.release.heap_info_bytes
        made = Arena(address, [], flags=2)
        self.arenas.insert(1, made)
        self._new_heap(made, start, address + self.release.state["size"])
        return made

    def heap(self, arena: Arena) -> Row:
        """A further heap of a thread arena, whose last row must have ended."""
        start = arena.heaps[-1] + HEAP_BYTES
        return self._new_heap(arena, start, start + self.release.heap_info_bytes)

    def _new_heap(self, arena: Arena, start: int, behind_header: int) -> Row:
        row = Row(up(behind_header, 16), non_main=True)
        arena.heaps.append(start)
        arena.rows.append(row)
        return row

    def foreign_brk(self, size: int) -> Row:
        """Somebody else moves the break: main's row ends, the next one begins behind."""
        fenceposts_end = self.main.row.end
        row = Row(up(fenceposts_end + size, 16))
        self.foreign_bytes += row.first - fenceposts_end
        self.image.words(fenceposts_end, *[0x4242424242424242] * (size // 8))
        self.main.rows.append(row)
        return row

    def thread(self, arena: Arena | None = None) -> Thread:
        tid = 100 + len(self.threads)
        made = Thread(tid, STACKS + len(self.threads) * 0x10000 + 0x8740, arena or self.main)
        self.threads.append(made)
        return made

    def mapping(
        self, length: int, *, offset: int = 0, gap: int = PAGE, hugetlb: bool = False
    ) -> int:
        """A chunk with a mapping of its own, ``gap`` bytes behind the one before. ``offset``:
        where memalign put it. The header names the mapping's length less what lies before it, and
        from 2.43 less the header, too."""
        start = self.mappings[-1][1] + gap if self.mappings else MAPPINGS
        usable = self.release.mmap_size_is_usable
        size = length - offset - (16 if usable else 0)
        self.image.touch(start, start + length)
        self.image.words(start + offset, offset | (usable and hugetlb), size | 2)
        self.mappings.append((start, start + length))
        return start

    # ---- writing it ----

    def write(self) -> Malloc:
        """Everything into the image; from then on only the image may be changed."""
        self.image.touch(LIBC_DATA, LIBC_DATA + 2 * PAGE)
        self.image.touch(LIBC_RODATA, LIBC_RODATA + PAGE)
        self._write_par()
        for arena, following in zip(self.arenas, [*self.arenas[1:], self.main], strict=True):
            self._write_arena(arena, following.address)
        for thread in self.threads:
            self._write_thread(thread)
        return self

    def _write_par(self) -> None:
        total = sum(end - start for start, end in self.mappings)
        count = {"n_mmaps": len(self.mappings), "max_n_mmaps": len(self.mappings)}
        values = {**count, "mmapped_mem": total, "max_mmapped_mem": total, **self.par}
        data = b""
        for field in self.release.par:
            name, _, is_int = field.partition(":")
            if is_int:
                data += struct.pack("<i", values.get(name, 0))
            else:
                data += b"\0" * (-len(data) % 8) + struct.pack("<Q", values.get(name, 0))
        self.image.write(self.par_address, data)

    def _write_arena(self, arena: Arena, following: int) -> None:
        state = self.release.state
        rows = arena.rows + (self.main_mappings if arena is self.main else [])
        bins: dict[int, list[tuple[Row, int]]] = {}
        for row in rows:
            for chunk in row.chunks:
                if chunk.kind == "bin":
                    bins.setdefault(_bin_index(chunk.size), []).append((row, chunk.address))
        words = [0] * 254
        for index in range(1, 128):
            head = arena.address + state["bins"] + 16 * (index - 1) - 16
            ring = [head, *(address for _, address in bins.get(index, [])), head]
            for i, (row, address) in enumerate(bins.get(index, []), start=1):
                row.put_links(address, fd=ring[i + 1], bk=ring[i - 1])
            words[2 * index - 2 : 2 * index] = ring[1], ring[-2]
        self.image.words(arena.address + state["bins"], *words)
        for row in rows:
            row.write(self.image)
        if "fastbins" in state:
            self._write_fastbins(arena)
        tops = [address for row in rows for address in row.addresses("top")]
        system = self.system_bytes(arena) if arena.system_bytes is None else arena.system_bytes
        self.image.write(arena.address, struct.pack("<Ii", arena.lock_word, arena.flags))
        self.image.words(arena.address + state["top"], *tops or [arena.address + state["top"]])
        self.image.words(arena.address + state["next"], following)
        self.image.words(arena.address + state["attached_threads"], arena.attached_threads)
        self.image.words(arena.address + state["system_mem"], system)
        self.image.words(arena.address + state["max_system_mem"], system)
        previous = 0
        for start, row in zip(arena.heaps, arena.rows, strict=bool(arena.heaps)):
            size = row.end - start
            rw_bytes = size + arena.further_rw_bytes
            self.image.words(start, arena.address, previous, size, rw_bytes)
            previous = start

    def _write_fastbins(self, arena: Arena) -> None:
        lists: list[list[int]] = [[] for _ in range(10)]
        for row in arena.rows:
            for chunk in row.chunks:
                if chunk.kind == "fastbin":
                    lists[chunk.size // 16 - 2].append(chunk.address)
        heads = [
            linked(self.image, chunks, mangled=self.release.mangled, link_offset=16)
            for chunks in lists
        ]
        self.image.words(arena.address + self.release.state["fastbins"], *heads)

    def _write_thread(self, thread: Thread) -> None:
        release = self.release
        self.image.touch(thread.tcb - 0x1000, thread.tcb + 0x900)
        self.image.words(thread.tcb, thread.tcb, 0, thread.tcb)
        self.image.words(thread.tcb + thread.ARENA_OFFSET, thread.arena.address)
        self.image.words(thread.tcb + thread.TCACHE_OFFSET, thread.tcache)
        if not thread.tcache or thread.tcache < BRK or thread.tcache // PAGE == LIBC_RODATA // PAGE:
            return
        numbers = [release.fill if release.counts_free_slots else 0] * release.tcache_bins
        heads = [0] * release.tcache_bins
        for index, pointers in thread.bins.items():
            numbers[index] += -len(pointers) if release.counts_free_slots else len(pointers)
            heads[index] = linked(self.image, pointers, mangled=release.mangled)
        data = struct.pack(f"<{release.tcache_bins}H", *numbers)
        self.image.write(thread.tcache, data + struct.pack(f"<{len(heads)}Q", *heads))

    # ---- what is true of it ----

    def system_bytes(self, arena: Arena) -> int:
        """What the arena got from the kernel: for main also what somebody else got by sbrk."""
        if arena.heaps:
            pairs = zip(arena.heaps, arena.rows, strict=True)
            return sum(row.end - start for start, row in pairs)
        mapped = sum(row.end - row.first for row in self.main_mappings)
        brk = arena.row.end - self.sbrk_base if arena.rows and arena.row.chunks else 0
        return brk + mapped

    def header_bytes(self, arena: Arena) -> int:
        if not arena.heaps:
            return 0
        return len(arena.heaps) * self.release.heap_info_bytes + self.release.state["size"]

    def alignment_bytes(self, arena: Arena) -> int:
        if not arena.heaps:
            return self.main.rows[0].first - self.sbrk_base
        before = sum(row.first - start for start, row in zip(arena.heaps, arena.rows, strict=True))
        return before - self.header_bytes(arena)

    @property
    def brk_spans(self) -> list[tuple[int, int]]:
        if not self.main.rows:
            return []
        return [(self.sbrk_base // PAGE * PAGE, up(self.main.row.end, PAGE))]

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The writable anonymous mappings."""
        heaps = [
            (start, row.end + arena.further_rw_bytes)
            for arena in self.arenas
            for start, row in zip(arena.heaps, arena.rows, strict=bool(arena.heaps))
        ]
        stacks = [(t.tcb - 0x8740, t.tcb - 0x8740 + 0x10000) for t in self.threads]
        rows = [(row.first // PAGE * PAGE, up(row.end, PAGE)) for row in self.main_mappings]
        return sorted(self.brk_spans + heaps + stacks + rows + self.mappings)

    def memory(self) -> SpanMemory:
        return self.image.memory()

    def locate(self, memory: SpanMemory) -> Located | None:
        return locate(memory, [(LIBC_DATA, LIBC_DATA + 2 * PAGE)], self.brk_spans)

    def subject(self, memory: SpanMemory, **changes: object) -> Subject:
        located = self.locate(memory)
        assert located is not None
        told: dict[str, object] = {
            "memory": memory,
            "walker": memory,
            "located": located,
            "threads": tuple(
                ThreadHead(t.tid, f"thread {t.tid}", t.tcb + t.ROBUST_LIST_OFFSET)
                for t in self.threads
            ),
            "spans": tuple(self.spans),
            "brk_end": max((end for _, end in self.brk_spans), default=0),
            "safe_linking_default": self.release.mangled,
        }
        return Subject(**{**told, **changes})  # type: ignore[arg-type]


def _bin_index(size: int) -> int:
    """Small bins by size, in steps of 16 up to 1008; for the others one large bin per power of
    two."""
    return size // 16 if size < 1024 else 64 + min(size.bit_length() - 11, 62)


def furnished(version: str) -> Malloc:
    """One of everything: main at an odd sbrk_base, two thread arenas (one with two heaps), parked
    chunks, fastbins where the release has them, and mappings."""
    malloc = Malloc(version, sbrk_base=BRK + 0x2B0)
    fast = "fastbins" in malloc.release.state
    main, owner = malloc.main, malloc.thread()
    owner.make_tcache(malloc.release.tcache_chunk)
    main.row.live(0x410)
    for _ in range(3):
        owner.park(main.row, 0x40)
    owner.park(main.row, 0x20)
    main.row.free(0x2400)
    main.row.live(0x40)
    if fast:
        main.row.fast(0x20)
        main.row.fast(0x20)
        main.row.fast(0x80)
    main.row.free(0x90)
    main.row.live(0x20)
    main.end_at_page(12)

    small = malloc.arena()
    worker = malloc.thread(small)
    worker.make_tcache(malloc.release.tcache_chunk)
    small.row.live(0x5000)
    small.row.free(0x90)
    worker.park(small.row, 0x110)
    owner.park(small.row, 0x40)  # a thread may park chunks of any arena
    small.end_at_page(3)
    small.further_rw_bytes = 0x3000

    large = malloc.arena()
    large.row.live(0x9000)
    if fast:
        large.row.fast(0x30)
    large.row.free(0x6000)
    large.row.live_up_to(large.heaps[-1] + 0x20000 - 32)
    large.row.heap_end()
    malloc.heap(large)
    large.row.live(0x1000)
    large.row.free(0x90)
    large.row.live(0x30)
    large.end_at_page()
    idle = malloc.thread(large)
    assert idle.tcache == 0

    malloc.mapping(0x21000)
    malloc.mapping(0x40000, gap=0)
    malloc.mapping(0x111000, offset=0xEFF0)
    return malloc
