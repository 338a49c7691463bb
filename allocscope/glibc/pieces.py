"""Walking rows of chunks, and cutting thread arenas into them.

A thread arena is its heaps, each a row from behind the heap's header to its end. Where the main
arena's rows lie is found in :mod:`allocscope.glibc.main_arena`. What a row's beginning and end cost
is counted here, as overhead; nothing is a remainder.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from allocscope.glibc import parts
from allocscope.glibc.abi import Abi
from allocscope.glibc.layouts import Layout
from allocscope.glibc.marks import Marks
from allocscope.glibc.par import ParValues
from allocscope.glibc.protocols import Memory, Walker
from allocscope.glibc.states import ArenaState, HeapInfo, heap_of
from allocscope.immutable import immutable, replace
from allocscope.model.walk import STOP_FENCEPOST, FastLists, Region, Residency, Tally

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
    hugetlb_spans: Sequence[tuple[int, int]] = ()
    """Those of the mappings that are of hugetlb pages, which RSS does not count."""
    arenas: frozenset[int] = frozenset()
    """The addresses of all arenas."""
    in_parts: bool = True
    """May rows and heaps be walked side by side? Not where their headers are kept, in one place."""
    pins: bool = False
    """Whether to look for what holds free memory."""
    in_doubt: FastLists | None = None
    """Where it is not known yet which chunks are in fastbins: which may be."""

    @property
    def heap_max_bytes(self) -> int:
        return self.layout.heap_max_bytes(self.par.hp_pagesize)

    def in_hugetlb(self, address: int) -> bool:
        return any(start <= address < end for start, end in self.hugetlb_spans)

    @property
    def abi(self) -> Abi:
        return self.memory.abi

    @property
    def trim_unit(self) -> int:
        """systrim works in huge pages where ``mp_.thp_pagesize`` is set (2.35 on)."""
        return self.par.thp_pagesize or self.abi.page_bytes

    def extent(self, address: int) -> tuple[int, int] | None:
        """The run of neighbouring mappings around ``address``; one of hugetlb pages is alone."""
        index = bisect_right(self.spans, address, key=lambda span: span[0]) - 1
        if index < 0 or address >= self.spans[index][1]:
            return None
        if self.in_hugetlb(self.spans[index][0]):
            return self.spans[index]
        first = last = index
        while last + 1 < len(self.spans) and self._joins(last):
            last += 1
        while first and self._joins(first - 1):
            first -= 1
        return self.spans[first][0], self.spans[last][1]

    def _joins(self, index: int) -> bool:
        """Does the next mapping continue this one?"""
        start = self.spans[index + 1][0]
        apart = self.in_hugetlb(self.spans[index][0]) or self.in_hugetlb(start)
        return start == self.spans[index][1] and not apart


def round_up(value: int, unit: int) -> int:
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
    page = around.abi.page_bytes
    region = Region(
        start=start // page * page,
        first=first,
        limit=limit,
        map_end=map_end,
        top=top if first <= top < limit else 0,
        trim_unit=trim_unit,
        trim_pad=around.trim.pad_bytes,
        merge_fastbins=around.layout.state.fastbins is not None,
        hugetlb=around.in_hugetlb(first),
        tcache=inside.tcache,
        fastbin=inside.fastbin,
        tcache_struct=inside.tcache_struct,
        known=inside.known,
        locked=around.trim.locked,
        pins=around.pins,
        in_doubt=around.in_doubt,
    )
    if not around.in_parts:
        return around.walker.walk(region)
    return parts.walk(around.memory, around.walker, region)


# ---- thread arenas ----


def _header_bytes(around: Surroundings, arena: ArenaState, heap: HeapInfo) -> int:
    """What stands at a heap's beginning: its own header, and the arena's in the first one."""
    holds_arena = heap.start == heap_of(arena.address, around.heap_max_bytes)
    return around.layout.heap_info_bytes + (around.layout.state.size if holds_arena else 0)


def first_chunk(around: Surroundings, arena: ArenaState, heap: HeapInfo) -> int:
    """Where a heap's row of chunks begins."""
    return around.abi.first_chunk(heap.start + _header_bytes(around, arena, heap))


def thread_pieces(
    around: Surroundings, arena: ArenaState, heaps: Sequence[HeapInfo], marks: Marks
) -> list[Piece]:
    """Walks every heap of a thread arena."""

    def piece_of(memory: Memory, walker: Walker, heap: HeapInfo) -> Piece:
        return _thread_piece(replace(around, memory=memory, walker=walker), arena, heap, marks)

    if not around.in_parts:
        return [piece_of(around.memory, around.walker, heap) for heap in heaps]
    return around.walker.each(heaps, piece_of)


def _thread_piece(around: Surroundings, arena: ArenaState, heap: HeapInfo, marks: Marks) -> Piece:
    header = _header_bytes(around, arena, heap)
    first = first_chunk(around, arena, heap)
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
    return Piece(
        start=heap.start,
        end=limit,
        reserved_bytes=around.heap_max_bytes,
        holds_top=first <= arena.top < limit,
        header_bytes=header,
        alignment_bytes=first - heap.start - header,
        foreign_bytes=0,
        mprotect_bytes=heap.mprotect_size,
        tally=tally,
    )


# ---- the main arena ----


def walk_rows(
    around: Surroundings,
    arena: ArenaState,
    marks: Marks,
    start: int,
    limit: int,
    *,
    foreign_between: bool = True,
) -> list[Piece]:
    """Rows of chunks of the main arena from ``start`` on, up to ``limit``; with foreign memory
    between them, or only the first."""
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
        if not more or not foreign_between:
            break
        beyond = marks.within(end, limit).known
        # a free chunk may itself begin the row
        high = beyond[0] + around.abi.alignment if beyond else limit
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
    taken = max((round_up(piece.end, page) for piece in before), default=0)
    if around.in_hugetlb(start):
        return Residency(0, 0, 0, 0)
    return around.memory.residency(max(start // page * page, taken), round_up(end, page))
