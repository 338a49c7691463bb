"""Arenas as they stand in memory: ``struct malloc_state`` and the heaps of thread arenas.

Rules: a ring or a chain that does not close is an error (InvalidHeap), never cut short silently;
every loop is bounded.
"""

from __future__ import annotations

import struct

from allocscope.errors import AllocscopeError, MemoryGap
from allocscope.glibc.layouts import BIN_COUNT, StateLayout
from allocscope.glibc.protocols import Memory
from allocscope.immutable import immutable

MAX_ARENAS = 1 << 16
MAX_HEAPS = 1 << 16
CHUNK_FLAGS = 7
NONCONTIGUOUS = 2


class InvalidHeap(AllocscopeError):
    """The bytes contradict the layout: another layout, or an arena that is being changed right
    now."""

    exit_code = 5


@immutable
class ArenaState:
    """One ``struct malloc_state``. ``attached_threads`` is None where they are not counted (up to
    2.22). ``raw`` is its bytes without the lock word, for comparing two
    readings."""

    address: int
    lock_word: int
    flags: int
    fastbins: tuple[int, ...]
    top: int
    bins: tuple[int, ...]
    next: int
    attached_threads: int | None
    system_bytes: int
    max_system_bytes: int
    raw: bytes

    @property
    def noncontiguous(self) -> bool:
        return bool(self.flags & NONCONTIGUOUS)

    @property
    def initialised(self) -> bool:
        """Has malloc set up the bins? (Before the first call they are zero, glibc up to 2.41.)"""
        return any(self.bins)

    def bin_heads(self, layout: StateLayout) -> list[tuple[int, int, int]]:
        """``(address, fd, bk)`` of every non-empty bin; the address is that of the pretended chunk
        (fd lies behind its header)."""
        header = layout.abi.header_bytes
        base = self.address + layout.bins - header
        heads: list[tuple[int, int, int]] = []
        if not self.initialised:
            return heads
        for i in range(BIN_COUNT):
            here, fd, bk = base + header * i, self.bins[2 * i], self.bins[2 * i + 1]
            if fd != here or bk != here:
                heads.append((here, fd, bk))
        return heads


@immutable
class HeapInfo:
    """One heap of a thread arena: ``[start, start + size)`` is in use, RW up to
    ``mprotect_size``."""

    start: int
    arena: int
    previous: int
    size: int
    mprotect_size: int


def parse_state(address: int, data: bytes, layout: StateLayout) -> ArenaState:
    """One arena from its bytes (``layout.size`` of them)."""

    abi = layout.abi
    lock, flags = struct.unpack_from("<Ii", data, 0)
    attached = layout.attached_threads
    fastbins: tuple[int, ...] = ()
    if layout.fastbins is not None:
        fastbins = abi.words(data, layout.fastbins, layout.fastbin_count)
    return ArenaState(
        address=address,
        lock_word=lock,
        flags=flags,
        fastbins=fastbins,
        top=abi.word(data, layout.top),
        bins=abi.words(data, layout.bins, 2 * BIN_COUNT),
        next=abi.word(data, layout.next),
        attached_threads=None if attached is None else abi.word(data, attached),
        system_bytes=abi.word(data, layout.system_mem),
        max_system_bytes=abi.word(data, layout.max_system_mem),
        raw=data[4 : layout.size],
    )


def read_state(memory: Memory, address: int, layout: StateLayout) -> ArenaState:
    """One arena. MemoryGap when its bytes are not there."""
    return parse_state(address, memory.read(address, layout.size), layout)


def read_ring(memory: Memory, main_arena: int, layout: StateLayout) -> list[ArenaState]:
    """All arenas in list order: main first, then the newest (glibc inserts behind main).
    InvalidHeap when it does not close."""
    arenas = [read_state(memory, main_arena, layout)]
    seen = {main_arena}
    while (address := arenas[-1].next) != main_arena:
        if address in seen or len(arenas) >= MAX_ARENAS or address % layout.abi.header_bytes:
            raise InvalidHeap(
                f"the list of arenas does not close: {address:#x} after {len(arenas)}"
            )
        seen.add(address)
        try:
            arenas.append(read_state(memory, address, layout))
        except MemoryGap as gap:
            raise InvalidHeap(f"arena {address:#x} is not in memory") from gap
    return arenas


def heap_of(address: int, heap_max_bytes: int) -> int:
    """Start of the thread heap that would hold ``address`` (glibc's heap_for_ptr)."""
    return address & ~(heap_max_bytes - 1)


def read_heap_info(memory: Memory, start: int) -> HeapInfo:
    """The header of one thread heap. MemoryGap when it is not there."""
    arena, previous, size, mprotect_size = memory.abi.words(
        memory.read(start, 4 * memory.abi.word_bytes), 0, 4
    )
    return HeapInfo(start, arena, previous, size, mprotect_size)


def read_heaps(memory: Memory, arena: ArenaState, heap_max_bytes: int) -> list[HeapInfo]:
    """The heaps of a thread arena, oldest first (glibc links them from the newest, which holds top,
    backwards). ``heap_max_bytes``: their largest size and alignment.

    InvalidHeap when the chain does not end in the heap that holds the arena itself."""
    heaps: list[HeapInfo] = []
    seen: set[int] = set()
    start = heap_of(arena.top, heap_max_bytes)
    while start:
        try:
            heap = read_heap_info(memory, start)
        except MemoryGap as gap:
            raise InvalidHeap(
                f"heap {start:#x} of arena {arena.address:#x} is not in memory"
            ) from gap
        sane = heap.arena == arena.address and 0 < heap.size <= heap.mprotect_size <= heap_max_bytes
        if not sane or heap.previous % heap_max_bytes or start in seen or len(heaps) >= MAX_HEAPS:
            raise InvalidHeap(f"heap {start:#x} of arena {arena.address:#x} does not look like one")
        heaps.append(heap)
        seen.add(start)
        start = heap.previous
    if not heaps or heaps[-1].start != heap_of(arena.address, heap_max_bytes):
        raise InvalidHeap(f"the heaps of arena {arena.address:#x} do not lead back to it")
    return heaps[::-1]
