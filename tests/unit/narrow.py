"""A made-up malloc of a 32-bit program, byte by byte: for the releases before 2.26 there is nothing
else to read, and their chunks are aligned to 8 bytes.

Offsets are written down here a second time. Source: glibc malloc/malloc.c, malloc/arena.c.
"""

from __future__ import annotations

import dataclasses
import struct

from unit.heaps import Image

from allocscope.files.spans import SpanMemory
from allocscope.glibc.abi import NARROW
from allocscope.glibc.locate import Located, locate
from allocscope.glibc.reading import Subject
from allocscope.glibc.threads import ThreadHead

PAGE, HEAP_BYTES = 4096, 1 << 20
BRK, HEAP, DATA, TLS = 0x08050000, 0xF7400000, 0xF7E00000, 0xF7D00000
PREV_INUSE, NON_MAIN = 1, 4


@dataclasses.dataclass(frozen=True)
class Release:
    """``state``: offsets of fastbins, top, bins, next, attached_threads, system_mem, and the size
    (None: no such member). ``par``: of n_mmaps_max, sbrk_base, tcache_bins, and the size."""

    alignment: int
    state: tuple[int | None, int, int, int, int | None, int, int]
    par: tuple[int, int, int | None, int]
    heap_info: int
    tcache_chunk: int
    counter_bytes: int
    mangled: bool = False


RELEASES = {
    "2.17": Release(8, (8, 48, 56, 1088, None, 1096, 1104), (24, 48, None, 52), 16, 0, 0),
    "2.23": Release(8, (8, 48, 56, 1088, 1096, 1100, 1108), (24, 48, None, 52), 16, 0, 0),
    "2.24": Release(8, (8, 48, 56, 1088, 1096, 1100, 1108), (24, 44, None, 48), 16, 0, 0),
    "2.26": Release(16, (8, 52, 60, 1092, 1100, 1104, 1112), (24, 44, 48, 64), 24, 0x150, 1),
    "2.27": Release(16, (12, 56, 64, 1096, 1104, 1108, 1116), (24, 44, 48, 64), 24, 0x150, 1),
    "2.34": Release(
        16, (12, 56, 64, 1096, 1104, 1108, 1116), (24, 44, 48, 64), 24, 0x190, 2, mangled=True
    ),
}


class Narrow:
    """Main arena, one thread arena, one thread that has them both: its arena, and in its tcache
    (where there is one) chunks of either."""

    TCB, ARENA_SLOT, TCACHE_SLOT, ROBUST_LIST = TLS + 0x740, -0x2C, -0x24, 0x6C

    def __init__(self, version: str, foreign_bytes: int = 0) -> None:
        self.version, self.release = version, RELEASES[version]
        self.image = Image()
        self.slack = -8 % self.release.alignment
        self.main, self.thread_arena = DATA + 0x780, HEAP + self.release.heap_info
        self.counts = dict.fromkeys(("live", "tcache", "fast", "free", "struct"), 0)
        self.bytes = dict(self.counts)
        self.parked: list[int] = []
        self.tcache = 0
        self.foreign_bytes = foreign_bytes
        first = BRK + self.slack
        end = BRK + 0x5000
        at, bins, fast = self._row(first, 0)
        if foreign_bytes:
            at = self._fenceposts(at, end)
            end += foreign_bytes
            at = end + self.slack
            end += 0x3000
        self._words(at + 4, end - at | PREV_INUSE)
        self._state(self.main, at, end - BRK, self.thread_arena, bins, fast)
        self.brk_end = end
        header = self.thread_arena + self.release.state[6]
        first = header + -(header + 8) % self.release.alignment
        end = HEAP + 0x6000
        at, bins, fast = self._row(first, NON_MAIN)
        self._words(at + 4, end - at | PREV_INUSE)
        self._state(self.thread_arena, at, end - HEAP, self.main, bins, fast)
        self._words(HEAP, self.thread_arena, 0, end - HEAP, end - HEAP)
        self.heap_end = end
        self._par()
        self._threads()

    def _words(self, address: int, *values: int) -> None:
        self.image.write(address, struct.pack(f"<{len(values)}I", *values))

    def _count(self, kind: str, size: int) -> None:
        self.counts[kind] += 1
        self.bytes[kind] += size

    def _row(self, at: int, flag: int) -> tuple[int, int, int]:
        """Chunks of every kind; where they end, the one in a bin, and the one in a fastbin."""
        unit = self.release.alignment
        kinds = [("struct", self.release.tcache_chunk)] if not self.tcache else []
        kinds += [
            ("live", 16),
            ("tcache", 32),
            ("live", 16 + unit),
            ("free", 0x200),
            ("live", 0x40),
        ]
        kinds += [("tcache", 32), ("fast", 16 + unit), ("live", 0x100)]
        binned = fast = 0
        before_is_free = 0
        for kind, size in kinds:
            if not size:
                continue
            if kind == "tcache" and not self.release.tcache_chunk:
                kind = "live"
            word = size | flag | (0 if before_is_free else PREV_INUSE)
            self._words(at, before_is_free, word if kind != "free" else word & ~NON_MAIN)
            if kind == "struct":
                self.tcache = at + 8
            elif kind == "tcache":
                self.parked.insert(0, at + 8)
            elif kind == "fast":
                fast = at
                self._words(at + 8, (at + 8) >> 12 if self.release.mangled else 0)
            elif kind == "free":
                binned = at
            self._count(kind, size)
            before_is_free = size if kind == "free" else 0
            at += size
        return at, binned, fast

    def _fenceposts(self, at: int, end: int) -> int:
        """The old top becomes a live chunk, here, and two fenceposts of 8 end its page."""
        size = end - self.slack - 16 - at
        self._words(at + 4, size | PREV_INUSE)
        self._count("live", size)
        self._words(end - self.slack - 16, 0, 8 | PREV_INUSE, 0, 8 | PREV_INUSE)
        return end

    def _state(
        self, address: int, top: int, system: int, following: int, binned: int, fast: int
    ) -> None:
        fastbins, at_top, bins, at_next, attached, at_system, size = self.release.state
        self.image.write(address, bytes(size))
        self._words(address + 4, 2 if address == self.thread_arena else 0)
        head = address + bins - 8
        ends = [link for index in range(127) for link in [head + 8 * index] * 2]
        ends[:2] = [binned, binned]
        self._words(binned + 8, head, head)
        self._words(address + bins, *ends)
        assert fastbins is not None
        width = 16 + self.release.alignment
        self._words(address + fastbins + 4 * (width // 8 - 2), fast)
        self._words(address + at_top, top)
        self._words(address + at_next, following)
        if attached is not None:
            self._words(address + attached, 1)
        self._words(address + at_system, system, system)

    def _par(self) -> None:
        at_max, at_base, at_bins, size = self.release.par
        at = DATA + 0x100
        self.image.write(at, bytes(size))
        self._words(at, 0x20000, 0x20000, 0x20000, 2, 0)
        self._words(at + at_max, 65536)
        self._words(at + at_base, BRK)
        if at_bins is not None:
            self._words(at + at_bins, 64, 0x3FC, 7)

    def _threads(self) -> None:
        self.image.write(TLS, bytes(0x1000))
        self._words(self.TCB, self.TCB, 0, self.TCB)
        self._words(self.TCB + self.ARENA_SLOT, self.thread_arena)
        self._words(self.TCB + self.TCACHE_SLOT, self.tcache)
        if not self.tcache:
            return
        bin_index, width = 1, self.release.counter_bytes
        entries = 64 * width
        self.image.write(self.tcache, bytes(entries + 64 * 4))
        count = len(self.parked).to_bytes(width, "little")
        self.image.write(self.tcache + bin_index * width, count)
        self._words(self.tcache + entries + 4 * bin_index, self.parked[0])
        key = [0x5EED] if self.release.mangled else []  # random from 2.34 on
        for link, target in zip(self.parked, [*self.parked[1:], 0], strict=True):
            self._words(link, target ^ (link >> 12 if self.release.mangled else 0), *key)

    # ---- for who reads it ----

    def memory(self) -> SpanMemory:
        memory = self.image.memory()
        memory.abi = NARROW
        return memory

    def locate(self, memory: SpanMemory) -> Located | None:
        return locate(memory, [(DATA, DATA + PAGE)], [(BRK, self.brk_end)])

    def subject(self, memory: SpanMemory, robust_lists: bool = True) -> Subject:
        located = self.locate(memory)
        assert located is not None
        memory.abi = located.layout.abi
        return Subject(
            memory=memory,
            walker=memory,
            located=located,
            threads=(ThreadHead(7, "x", self.TCB + self.ROBUST_LIST if robust_lists else 0),),
            spans=((BRK, self.brk_end), (HEAP, self.heap_end), (TLS, TLS + PAGE)),
            brk_end=self.brk_end,
            safe_linking_default=self.release.mangled,
        )
