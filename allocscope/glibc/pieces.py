"""Cutting an arena into rows of chunks and walking them.

A thread arena is its heaps, each a row from behind the heap's header to its end. The main arena is
one row from
``mp_.sbrk_base`` to the end of top; where somebody else moved the break in between, two fenceposts
end a row and the next one begins behind the foreign bytes; where sbrk failed, further rows lie in
mappings of their own. What a row's beginning and end cost is counted here, as overhead; nothing is
a remainder.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from allocscope.errors import MemoryGap
from allocscope.glibc.abi import Abi
from allocscope.glibc.layouts import Layout
from allocscope.glibc.marks import Marks
from allocscope.glibc.par import ParValues
from allocscope.glibc.protocols import Memory, Walker
from allocscope.glibc.states import CHUNK_FLAGS, ArenaState, HeapInfo, heap_of
from allocscope.immutable import immutable, replace
from allocscope.model.walk import STOP_FENCEPOST, Region, Residency, Tally

MAX_PIECES = 4096


@immutable
class Piece:
    """One walked row of chunks. ``header_bytes`` and ``alignment_bytes`` lie before its first
    chunk, ``foreign_bytes`` (memory that somebody else got from sbrk) before that.
    ``mprotect_bytes``: how far from ``start`` on it may be written to."""

    start: int
    end: int
    reserved_bytes: int
    holds_top: bool
    header_bytes: int
    alignment_bytes: int
    foreign_bytes: int
    mprotect_bytes: int
    tally: Tally


@immutable
class Trim:
    """The malloc_trim to foretell: its argument, and the mlocked memory, from which it releases
    nothing: start, end, start, end, …, ascending."""

    pad_bytes: int = 0
    locked: Sequence[int] = ()


PLAIN_TRIM = Trim()
"""malloc_trim(0) where nothing is mlocked."""


@immutable
class Surroundings:
    """What the cutting needs to know of the process: memory, the walk, and the writable anonymous
    mappings, ascending."""

    memory: Memory
    walker: Walker
    layout: Layout
    par: ParValues
    spans: Sequence[tuple[int, int]]
    brk_end: int
    """Where the process's break ends, rounded up to a page; 0 when it has no brk heap."""
    trim: Trim

    @property
    def abi(self) -> Abi:
        return self.memory.abi

    @property
    def trim_unit(self) -> int:
        """systrim works in huge pages where ``mp_.thp_pagesize`` is set (2.35 on)."""
        return self.par.thp_pagesize or self.abi.page_bytes

    def extent(self, address: int) -> tuple[int, int] | None:
        """The run of neighbouring mappings around ``address``."""
        index = bisect_right(self.spans, address, key=lambda span: span[0]) - 1
        if index < 0 or address >= self.spans[index][1]:
            return None
        start, end = self.spans[index]
        for low, high in self.spans[index + 1 :]:
            if low != end:
                break
            end = high
        for low, high in reversed(self.spans[:index]):
            if high != start:
                break
            start = low
        return start, end


def _round_up(value: int, unit: int) -> int:
    return (value + unit - 1) // unit * unit


def _walk(
    around: Surroundings,
    marks: Marks,
    *,
    start: int,
    first: int,
    limit: int,
    map_end: int,
    top: int,
    trim_unit: int,
) -> Tally:
    inside = marks.within(first, limit)
    region = Region(
        start=start // around.abi.page_bytes * around.abi.page_bytes,
        first=first,
        limit=limit,
        map_end=map_end,
        top=top if first <= top < limit else 0,
        trim_unit=trim_unit,
        trim_pad=around.trim.pad_bytes,
        merge_fastbins=around.layout.state.fastbins is not None,
        tcache=inside.tcache,
        fastbin=inside.fastbin,
        tcache_struct=inside.tcache_struct,
        known=inside.known,
        locked=around.trim.locked,
    )
    return around.walker.walk(region)


def rows_of(
    around: Surroundings, arena: ArenaState, heaps: Sequence[HeapInfo]
) -> list[tuple[int, int]]:
    """Where an arena's rows of chunks lie, as far as that is known before the walk: first chunk and
    limit of each."""
    if heaps:
        return [(_first_chunk(around, arena, heap), heap.start + heap.size) for heap in heaps]
    base = around.par.sbrk_base
    extent = around.extent(base) if base else None
    if extent is None or not extent[0] <= arena.top < extent[1]:
        return []
    return [(around.abi.first_chunk(base), _brk_limit(around, arena, extent))]


# ---- thread arenas ----


def _header_bytes(around: Surroundings, arena: ArenaState, heap: HeapInfo) -> int:
    """What stands at a heap's beginning: its own header, and the arena's in the first one."""
    holds_arena = heap.start == heap_of(arena.address, around.abi)
    return around.layout.heap_info_bytes + (around.layout.state.size if holds_arena else 0)


def _first_chunk(around: Surroundings, arena: ArenaState, heap: HeapInfo) -> int:
    return around.abi.first_chunk(heap.start + _header_bytes(around, arena, heap))


def thread_pieces(
    around: Surroundings, arena: ArenaState, heaps: Sequence[HeapInfo], marks: Marks
) -> list[Piece]:
    """Walks every heap of a thread arena."""
    pieces = []
    for heap in heaps:
        header = _header_bytes(around, arena, heap)
        first = _first_chunk(around, arena, heap)
        limit = heap.start + heap.size
        tally = _walk(
            around,
            marks,
            start=heap.start,
            first=first,
            limit=limit,
            map_end=heap.start + heap.mprotect_size,
            top=arena.top,
            trim_unit=0,
        )
        pieces.append(
            Piece(
                start=heap.start,
                end=limit,
                reserved_bytes=around.abi.heap_max_bytes,
                holds_top=first <= arena.top < limit,
                header_bytes=header,
                alignment_bytes=first - heap.start - header,
                foreign_bytes=0,
                mprotect_bytes=heap.mprotect_size,
                tally=tally,
            )
        )
    return pieces


# ---- the main arena ----


def _chunk_size(memory: Memory, chunk: int) -> int:
    word = memory.abi.word_bytes
    try:
        return memory.abi.word(memory.read(chunk + word, word)) & ~CHUNK_FLAGS
    except MemoryGap:
        return 0


def main_pieces(around: Surroundings, arena: ArenaState, marks: Marks) -> list[Piece]:
    """Walks all rows of the main arena; empty when it has obtained no memory yet."""
    if (
        not arena.system_bytes
        or arena.address <= arena.top < arena.address + around.layout.state.size
    ):
        return []
    base = around.par.sbrk_base
    extent = around.extent(base) if base else None
    pieces: list[Piece] = []
    if extent is not None:
        top_here = extent[0] <= arena.top < extent[1]
        limit = _brk_limit(around, arena, extent) if top_here else extent[1]
        pieces += _rows(around, arena, marks, base, limit)
    if arena.noncontiguous or not pieces or not any(piece.holds_top for piece in pieces):
        pieces += _mmapped_rows(around, arena, marks, extent)
    return pieces


def _brk_limit(around: Surroundings, arena: ArenaState, extent: tuple[int, int]) -> int:
    """Where top ends. In a contiguous arena that is sbrk_base + system_mem, whatever an allocation
    under way wrote to top."""
    by_system = around.par.sbrk_base + arena.system_bytes
    if not arena.noncontiguous and arena.top + around.abi.min_chunk_bytes <= by_system <= extent[1]:
        return by_system
    return min(arena.top + _chunk_size(around.memory, arena.top), extent[1])


def _rows(
    around: Surroundings,
    arena: ArenaState,
    marks: Marks,
    start: int,
    limit: int,
) -> list[Piece]:
    """Rows of chunks from ``start`` on, with foreign memory between them, up to ``limit``."""
    pieces: list[Piece] = []
    foreign = 0
    while start < limit and len(pieces) < MAX_PIECES:
        first = around.abi.first_chunk(start)
        tally = _walk(
            around,
            marks,
            start=start,
            first=first,
            limit=limit,
            map_end=limit,
            top=arena.top,
            trim_unit=around.trim_unit if limit == around.brk_end else 0,
        )
        more = tally.stop_reason == STOP_FENCEPOST
        end = tally.stopped_at if more else limit
        if more or pieces:
            tally = replace(tally, pages=_own_pages(around, pieces, start, end))
        pieces.append(
            Piece(
                start=start,
                end=end,
                reserved_bytes=end - start,
                holds_top=start <= arena.top < end,
                header_bytes=0,
                alignment_bytes=first - start,
                foreign_bytes=foreign,
                mprotect_bytes=end - start,
                tally=tally,
            )
        )
        if not more:
            break
        beyond = marks.within(end, limit).known
        high = (
            beyond[0] + around.abi.alignment if beyond else limit
        )  # a free chunk may itself begin the row
        targets = [address for address in beyond if address > end]
        following = around.walker.row_start(end, high, limit, targets)
        if following is None:
            break
        # where no chunk can begin at the start of a page, those first bytes are malloc's own
        page_start = following - around.abi.slack_bytes
        start = page_start if page_start % around.abi.page_bytes == 0 else following
        foreign = start - end
    return pieces


def _own_pages(around: Surroundings, before: Sequence[Piece], start: int, end: int) -> Residency:
    """Page states of a row that shares its break with others: each page counts for the first row
    that reaches into it."""
    page = around.abi.page_bytes
    taken = max((_round_up(piece.end, page) for piece in before), default=0)
    return around.memory.residency(max(start // page * page, taken), _round_up(end, page))


def _mmapped_rows(
    around: Surroundings, arena: ArenaState, marks: Marks, brk: tuple[int, int] | None
) -> list[Piece]:
    """Rows that the main arena got from mmap when sbrk failed: found by the chunks that its header
    names."""
    pieces: list[Piece] = []
    outside = [a for a in marks.known if brk is None or not brk[0] <= a < brk[1]]
    extents = sorted({e for e in (around.extent(a) for a in outside) if e is not None})
    for low, high in extents:
        targets = [a for a in outside if low <= a < high]
        top_end = high
        if low <= arena.top < high:
            top_end = min(arena.top + _chunk_size(around.memory, arena.top), high)
        at = low
        while targets and at < high and len(pieces) < MAX_PIECES:
            start = next(
                (
                    page
                    for page in range(at, targets[0] + 1, around.abi.page_bytes)
                    if (chunk := around.abi.first_chunk(page)) == targets[0]
                    or around.walker.chain_reaches(chunk, high, targets)
                ),
                None,
            )
            if start is None:
                break
            limit = top_end if start <= arena.top < top_end else high
            found = _rows(around, arena, marks, start, limit)
            pieces += found
            at = _round_up(found[-1].end, around.abi.page_bytes)
            targets = [a for a in targets if a >= at]
    return pieces
