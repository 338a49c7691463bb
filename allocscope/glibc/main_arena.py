"""Where the main arena's rows of chunks lie.

In the brk heap it is one row from ``mp_.sbrk_base`` to the end of top; where somebody else moved
the break in between, two fenceposts end a row and the next one begins behind the foreign bytes.
Where sbrk failed, or may not be used (hugetlb pages, a library in a namespace of its own), rows lie
in mappings of their own, at least 1 MiB each, and nothing lists those: they are found by the chunks
that the arena's header names. Of a region that is full nothing is named; then rows that begin and
end as such a region does are looked for in memory that nobody owns, and taken if exactly the bytes
are found that are missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from allocscope.errors import MemoryGap
from allocscope.glibc.marks import Marks
from allocscope.glibc.pieces import (
    MAX_PIECES,
    Piece,
    Surroundings,
    first_chunk,
    round_up,
    walk_rows,
)
from allocscope.glibc.protocols import Memory
from allocscope.glibc.states import CHUNK_FLAGS, ArenaState, HeapInfo, heap_of
from allocscope.model.walk import STOP_FENCEPOST, STOP_LIMIT

MOST_PAGES_SEARCHED = 1 << 16


def rows_of(
    around: Surroundings, arena: ArenaState, heaps: Sequence[HeapInfo]
) -> list[tuple[int, int]]:
    """Where an arena's rows of chunks lie, as far as that is known before the walk: first chunk and
    limit of each."""
    if heaps:
        return [(first_chunk(around, arena, heap), heap.start + heap.size) for heap in heaps]
    base = around.par.sbrk_base
    extent = around.extent(base) if 0 < base < around.brk_end else None
    if extent is None or not extent[0] <= arena.top < extent[1]:
        return []
    return [(around.abi.first_chunk(base), _brk_limit(around, arena, extent))]


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
    extent = around.extent(base) if base and base < around.brk_end else None
    pieces: list[Piece] = []
    if extent is not None:
        top_here = extent[0] <= arena.top < extent[1]
        limit = _brk_limit(around, arena, extent) if top_here else extent[1]
        pieces += walk_rows(around, arena, marks, base, limit)
    if arena.noncontiguous or not any(piece.holds_top for piece in pieces):
        pieces += _mmapped_rows(around, arena, marks, extent)
        pieces += _full_rows(around, arena, marks, pieces)
    return sorted(pieces, key=lambda piece: piece.start)


def _brk_limit(around: Surroundings, arena: ArenaState, extent: tuple[int, int]) -> int:
    """Where top ends. In a contiguous arena that is sbrk_base + system_mem, whatever an allocation
    under way wrote to top."""
    by_system = around.par.sbrk_base + arena.system_bytes
    if not arena.noncontiguous and arena.top + around.abi.min_chunk_bytes <= by_system <= extent[1]:
        return by_system
    return min(arena.top + _chunk_size(around.memory, arena.top), extent[1])


def _mmapped_rows(
    around: Surroundings, arena: ArenaState, marks: Marks, brk: tuple[int, int] | None
) -> list[Piece]:
    """Rows that the main arena got from mmap when sbrk failed: found by the chunks that its header
    names."""
    pieces: list[Piece] = []
    outside = [a for a in marks.known if brk is None or not brk[0] <= a < brk[1]]
    if brk is None and around.par.sbrk_base:
        begin = around.abi.first_chunk(around.par.sbrk_base)  # of the first of them
        outside = sorted({*outside, begin})
    extents = sorted({e for e in (around.extent(a) for a in outside) if e is not None})
    for low, high in extents:
        targets = [a for a in outside if low <= a < high]
        top_end = high
        if low <= arena.top < high:
            top_end = min(arena.top + _chunk_size(around.memory, arena.top), high)
        at = low
        while targets and at < high and len(pieces) < MAX_PIECES:
            start = _first_row(around, at, high, targets)
            if start is None:
                break
            limit = top_end if start <= arena.top < top_end else high
            found = walk_rows(around, arena, marks, start, limit, foreign_between=False)
            pieces += found
            at = round_up(found[-1].end, around.abi.page_bytes)
            targets = [a for a in targets if a >= at]
    return pieces


def _first_row(around: Surroundings, at: int, high: int, targets: Sequence[int]) -> int | None:
    """The first page from which chunks lead to one of the ``targets``, or to a region's end, and
    whose first chunk looks as a region's does."""
    for page in range(at, targets[0] + 1, around.abi.page_bytes):
        begins = _begins_row(around, page, high, targets)
        if begins or around.abi.first_chunk(page) == targets[0]:
            return page
    return None


def _begins_row(around: Surroundings, page: int, high: int, targets: Sequence[int]) -> bool:
    chunk = around.abi.first_chunk(page)
    return around.walker.row_start(chunk, chunk + around.abi.alignment, high, targets) == chunk


def _full_rows(
    around: Surroundings, arena: ArenaState, marks: Marks, known: Sequence[Piece]
) -> list[Piece]:
    """Regions without any chunk that the header names, if they add up to what is missing."""
    covered = sum(piece.end - piece.start + piece.foreign_bytes for piece in known)
    missing = arena.system_bytes - covered
    found: list[Piece] = []
    if missing > 0:
        for page, end in _unowned_pages(around, known):
            if found and page < found[-1].end:
                continue
            if not _begins_row(around, page, end, ()):
                continue
            [piece] = walk_rows(around, arena, marks, page, end, foreign_between=False)
            whole = piece.tally.stop_reason in (STOP_FENCEPOST, STOP_LIMIT)
            ends = piece.end % around.abi.page_bytes == 0
            if whole and ends and not piece.tally.damage_count:
                found.append(piece)
    return found if sum(piece.end - piece.start for piece in found) == missing else []


def _unowned_pages(around: Surroundings, known: Sequence[Piece]) -> Iterator[tuple[int, int]]:
    """The pages where neither a row nor a thread's heap is, each with the end of its mapping;
    bounded."""
    left = MOST_PAGES_SEARCHED
    for start, end in around.spans:
        taken = [(piece.start, piece.end) for piece in known if start <= piece.start < end]
        page = start
        while page < end and left:
            left -= 1
            if _in_thread_heap(around, page):
                page = heap_of(page, around.heap_max_bytes) + around.heap_max_bytes
                continue
            if not any(low <= page < high for low, high in taken):
                yield page, end
            page += around.abi.page_bytes


def _in_thread_heap(around: Surroundings, address: int) -> bool:
    """Does the heap that would hold the address name one of the arenas as its own?"""
    start = heap_of(address, around.heap_max_bytes)
    [data] = around.memory.read_each([start], around.abi.word_bytes)
    return data is not None and around.abi.word(data) in around.arenas
