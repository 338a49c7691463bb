"""Every chunk of every arena, one after the other, each put in exactly one class.

Lists first (tcaches, fastbins, bins), then the rows of chunks; a chunk is what the lists say it
is, and live if no list has it. Whatever contradicts that (a binned chunk whose successor says it
is in use, a row that does not arrive at top) is an OracleError.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from oracle import OracleError
from oracle.layout import BINS, FASTBINS, HEAP_BYTES, Layout
from oracle.memory import PAGE, Memory, mappings
from oracle.threads import tcaches

PREV_INUSE, IS_MMAPPED, NON_MAIN, FLAGS = 1, 2, 4, 7
CHUNK_UNIT, SMALLEST = 16, 32
LIST_LIMIT = 50_000_000


@dataclasses.dataclass
class Sums:
    """One arena: bytes are whole chunks. ``chunks`` has (address, size, class) of every one."""

    address: int
    top: int
    system_bytes: int
    live_bytes: int = 0
    live_count: int = 0
    tcache_bytes: int = 0
    tcache_count: int = 0
    fastbin_bytes: int = 0
    fastbin_count: int = 0
    bin_bytes: int = 0
    bin_count: int = 0
    top_bytes: int = 0
    arena_headers_bytes: int = 0
    alignment_bytes: int = 0
    fencepost_bytes: int = 0
    tcache_struct_bytes: int = 0
    foreign_bytes: int = 0
    chunks: list[tuple[int, int, str]] = dataclasses.field(default_factory=list, repr=False)

    @property
    def overhead_bytes(self) -> int:
        return (
            self.arena_headers_bytes
            + self.alignment_bytes
            + self.fencepost_bytes
            + self.tcache_struct_bytes
            + self.foreign_bytes
        )

    @property
    def residue_bytes(self) -> int:
        accounted = self.live_bytes + self.tcache_bytes + self.fastbin_bytes + self.bin_bytes
        return self.system_bytes - accounted - self.top_bytes - self.overhead_bytes


@dataclasses.dataclass(frozen=True)
class Row:
    """Chunks that lie one after the other from ``start`` to ``end``; ``end`` is top or the end
    of a heap. ``foreign_bytes`` that somebody else took from the break lie behind the first two
    fenceposts, where it is not 0."""

    start: int
    end: int
    ends_in_top: bool
    header_bytes: int
    alignment_bytes: int
    foreign_bytes: int = 0


def walk(
    memory: Memory, layout: Layout, main_arena: int, par: int, foreign_bytes: int = 0
) -> list[Sums]:
    """The sums of every arena, main_arena first, then in ring order. ``foreign_bytes``: what the
    program took from the break by itself, once, after its first use of malloc; nothing in memory
    tells."""
    arenas = list(_ring(memory, layout, main_arena))
    rows = {arena: list(_rows(memory, layout, arena, main_arena, par)) for arena in arenas}
    rows[main_arena] = [
        dataclasses.replace(row, foreign_bytes=foreign_bytes) for row in rows[main_arena]
    ]
    chunk_starts = {
        chunk for arena in arenas for row in rows[arena] for chunk, _ in _chunks(memory, row)
    }
    structs = set(tcaches(memory, layout, chunk_starts.__contains__).values())
    cached = {
        entry - CHUNK_UNIT
        for struct in structs
        for entry in _tcache_entries(memory, layout, struct)
    }
    listed = dict.fromkeys(cached, "tcache")
    listed |= {struct - CHUNK_UNIT: "tcache_struct" for struct in structs}
    sums = []
    for arena in arenas:
        own = dict.fromkeys(_fastbin_chunks(memory, layout, arena), "fastbin")
        own |= dict.fromkeys(_bin_chunks(memory, layout, arena), "bin")
        if listed.keys() & own.keys() or not own.keys() <= chunk_starts:
            raise OracleError("a list has a chunk that another list has too, or that no row has")
        sums.append(_sum(memory, layout, arena, rows[arena], listed | own))
    if not cached <= chunk_starts:
        raise OracleError("a tcache has something that is no chunk")
    return sums


def mmapped(memory: Memory, layout: Layout) -> tuple[int, int]:
    """Count and bytes of chunks with a mapping of their own, by the headers at the start of
    unnamed anonymous pages."""
    count = total = 0
    for mapping in mappings(memory.pid):
        if mapping.name or not mapping.permissions.startswith("rw"):
            continue
        page = mapping.start
        while page < mapping.end:
            length = _mapped_chunk(memory, layout, page, mapping.end)
            if length:
                count, total = count + 1, total + length
            page += length or PAGE
    return count, total


def _mapped_chunk(memory: Memory, layout: Layout, page: int, end: int) -> int:
    """The length of the mapping of a chunk whose header is at ``page``; 0 where there is none."""
    try:
        offset, size = memory[page], memory[page + 8]
    except OSError:  # a guard page of a thread's stack
        return 0
    length = (size & ~FLAGS) + offset + layout.mapping_extra
    whole = length % PAGE == 0 and PAGE <= length <= end - page
    return length if size & FLAGS == IS_MMAPPED and whole else 0


def _ring(memory: Memory, layout: Layout, main_arena: int) -> Iterator[int]:
    arena = main_arena
    for _ in range(100_000):
        yield arena
        arena = memory[arena + layout.next]
        if arena == main_arena:
            return
    raise OracleError("the ring of arenas does not close")


def _rows(memory: Memory, layout: Layout, arena: int, main_arena: int, par: int) -> Iterator[Row]:
    top = memory[arena + layout.top]
    if arena == main_arena:
        if memory[arena + layout.system_mem] == 0:
            return
        base = memory[par + layout.sbrk_base]
        start = _aligned(base)
        yield Row(start, top, True, 0, start - base)
        return
    heap = top & ~(HEAP_BYTES - 1)
    while heap:
        owner, previous, size = memory[heap], memory[heap + 8], memory[heap + 16]
        if owner != arena:
            raise OracleError(f"heap {heap:#x} belongs to {owner:#x}, not to {arena:#x}")
        holds_state = arena == heap + layout.heap_info_bytes
        header = layout.heap_info_bytes + (layout.state_bytes if holds_state else 0)
        start = _aligned(heap + header)
        holds_top = heap < top < heap + size
        end = top if holds_top else heap + size
        yield Row(start, end, holds_top, header, start - heap - header)
        heap = previous


def _aligned(address: int) -> int:
    return (address + CHUNK_UNIT - 1) & ~(CHUNK_UNIT - 1)


def _chunks(memory: Memory, row: Row) -> Iterator[tuple[int, int]]:
    """(address, size) of each chunk; the last one of a row that does not end in top has size 0."""
    chunk, before, foreign_bytes = row.start, 0, row.foreign_bytes
    while chunk < row.end:
        size = memory[chunk + 8] & ~FLAGS
        yield chunk, size
        if size == 0:
            break
        chunk += size
        if size == before == CHUNK_UNIT:
            chunk, foreign_bytes = chunk + foreign_bytes, 0
        before = size
    arrived = chunk == row.end if row.ends_in_top else chunk == row.end - CHUNK_UNIT
    if not arrived:
        raise OracleError(f"the row from {row.start:#x} ends at {chunk:#x}, not at {row.end:#x}")


def _sum(
    memory: Memory, layout: Layout, arena: int, rows: list[Row], listed: dict[int, str]
) -> Sums:
    sums = Sums(arena, memory[arena + layout.top], memory[arena + layout.system_mem])
    for row in rows:
        sums.arena_headers_bytes += row.header_bytes
        sums.alignment_bytes += row.alignment_bytes
        sums.foreign_bytes += row.foreign_bytes
        for chunk, size in _chunks(memory, row):
            kind = _kind(memory, row, chunk, size, listed)
            sums.chunks.append((chunk, size, kind))
            match kind:
                case "live":
                    sums.live_bytes += size
                    sums.live_count += 1
                case "tcache":
                    sums.tcache_bytes += size
                    sums.tcache_count += 1
                case "fastbin":
                    sums.fastbin_bytes += size
                    sums.fastbin_count += 1
                case "bin":
                    sums.bin_bytes += size
                    sums.bin_count += 1
                case "tcache_struct":
                    sums.tcache_struct_bytes += size
                case "fencepost":
                    sums.fencepost_bytes += max(size, CHUNK_UNIT)
        if row.ends_in_top:
            sums.top_bytes += memory[row.end + 8] & ~FLAGS
    return sums


def _kind(memory: Memory, row: Row, chunk: int, size: int, listed: dict[int, str]) -> str:
    if size < SMALLEST:
        return "fencepost"
    kind = listed.get(chunk, "live")
    before_end = not row.ends_in_top and chunk + size == row.end - CHUNK_UNIT
    if kind == "live" and before_end and size == SMALLEST and not memory[chunk + 8] & NON_MAIN:
        return "fencepost"
    in_use = bool(memory[chunk + size + 8] & PREV_INUSE)
    if in_use == (kind == "bin"):
        raise OracleError(f"chunk {chunk:#x} is {kind}, but its successor says in use: {in_use}")
    return kind


def _bin_chunks(memory: Memory, layout: Layout, arena: int) -> Iterator[int]:
    for index in range(BINS):
        head = arena + layout.bins + index * 16 - 16
        chunk = memory[head + 16]
        for _ in range(LIST_LIMIT):
            if chunk in (head, 0):
                break
            yield chunk
            chunk = memory[chunk + 16]


def _fastbin_chunks(memory: Memory, layout: Layout, arena: int) -> Iterator[int]:
    if layout.fastbins is None:
        return
    for index in range(FASTBINS):
        head = memory[arena + layout.fastbins + 8 * index]
        yield from _linked(memory, layout, head, link_at=16)


def _tcache_entries(memory: Memory, layout: Layout, struct: int) -> Iterator[int]:
    for index in range(layout.tcache_bins):
        head = memory[struct + layout.tcache_entries + 8 * index]
        yield from _linked(memory, layout, head, link_at=0)


def _linked(memory: Memory, layout: Layout, head: int, link_at: int) -> Iterator[int]:
    element = head
    for _ in range(LIST_LIMIT):
        if element == 0:
            return
        yield element
        place = element + link_at
        element = memory[place] ^ (place >> 12) if layout.mangled else memory[place]
