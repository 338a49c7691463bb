"""From a reading of the heap to the arenas of the contract.

``system_bytes`` is glibc's own figure (``malloc_state.system_mem``); every other figure comes from
the walk or is counted at a row's beginning and end. So ``residue_bytes`` compares two independent
sources, and only 0 will do.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from allocscope.glibc.parts import add_classes
from allocscope.glibc.pieces import Piece
from allocscope.glibc.reading import HeapReading
from allocscope.glibc.threads import ThreadState
from allocscope.glibc.validate import ArenaReading
from allocscope.immutable import names_of
from allocscope.model.heap import (
    Arena,
    Figures,
    Heap,
    LargeFree,
    Mmapped,
    Overhead,
    PageHolder,
    SizeClass,
    ThreadCache,
)
from allocscope.model.process import SmapsEntry


def _heap(piece: Piece) -> Heap:
    t = piece.tally
    return Heap(
        start=piece.start,
        end=piece.end,
        reserved_bytes=piece.reserved_bytes,
        resident_bytes=t.pages.resident_bytes,
        swapped_bytes=t.pages.swapped_bytes,
        huge_bytes=t.pages.huge_bytes,
        live_bytes=t.live_bytes,
        live_count=t.live_count,
        free_bytes=t.tcache_bytes + t.fastbin_bytes + t.bin_bytes + t.top_bytes,
        free_resident_bytes=_free_resident(piece),
        trimmable_bytes=t.trimmable_bytes,
        holds_top=piece.holds_top,
    )


def _free_resident(piece: Piece) -> int:
    t = piece.tally
    return (
        t.tcache_resident_bytes
        + t.fastbin_resident_bytes
        + t.bin_resident_bytes
        + t.top_resident_bytes
    )


def _overhead(pieces: Sequence[Piece]) -> Overhead:
    return Overhead(
        arena_headers_bytes=sum(p.header_bytes for p in pieces),
        alignment_bytes=sum(p.alignment_bytes for p in pieces),
        fencepost_bytes=sum(p.tally.fencepost_bytes for p in pieces),
        tcache_struct_bytes=sum(p.tally.tcache_struct_bytes for p in pieces),
        foreign_brk_bytes=sum(p.foreign_bytes for p in pieces),
    )


def _figures(reading: ArenaReading, dirty: int | None, lazyfree: int | None) -> Figures:
    pieces = reading.pieces
    tallies = [p.tally for p in pieces]
    overhead = _overhead(pieces)
    live = sum(t.live_bytes for t in tallies)
    tcache = sum(t.tcache_bytes for t in tallies)
    fastbin = sum(t.fastbin_bytes for t in tallies)
    binned = sum(t.bin_bytes for t in tallies)
    top = sum(t.top_bytes for t in tallies)
    unread = sum(t.unread_bytes for t in tallies)
    system = reading.state.system_bytes
    return Figures(
        system_bytes=system,
        max_system_bytes=reading.state.max_system_bytes,
        live_bytes=live,
        live_count=sum(t.live_count for t in tallies),
        tcache_bytes=tcache,
        tcache_count=sum(t.tcache_count for t in tallies),
        fastbin_bytes=fastbin,
        fastbin_count=sum(t.fastbin_count for t in tallies),
        bin_bytes=binned,
        bin_count=sum(t.bin_count for t in tallies),
        top_bytes=top,
        overhead_bytes=overhead.total_bytes,
        overhead=overhead,
        unread_bytes=unread,
        residue_bytes=system
        - (live + tcache + fastbin + binned + top + overhead.total_bytes + unread),
        resident_bytes=sum(t.pages.resident_bytes for t in tallies),
        private_dirty_bytes=dirty,
        swapped_bytes=sum(t.pages.swapped_bytes for t in tallies),
        lazyfree_bytes=lazyfree,
        huge_bytes=sum(t.pages.huge_bytes for t in tallies),
        free_resident_bytes=sum(_free_resident(p) for p in pieces),
        trimmable_bytes=sum(t.trimmable_bytes for t in tallies),
        pinned_bytes=sum(t.pinned_bytes for t in tallies),
    )


def _total(values: Iterable[int | None]) -> int | None:
    """The sum, None when any part is unknown."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def totals(arenas: Sequence[Figures]) -> Figures:
    """All arenas' figures, summed; what is unknown for one is unknown for all."""

    def add(name: str) -> int:
        return sum(getattr(figures, name) for figures in arenas)

    overhead = Overhead(
        **{
            name: sum(getattr(figures.overhead, name) for figures in arenas)
            for name in names_of(Overhead)
        }
    )
    unknown = {"private_dirty_bytes", "lazyfree_bytes"}
    counted = {
        name: add(name) for name in names_of(Figures) if name not in unknown and name != "overhead"
    }
    return Figures(
        **counted,
        overhead=overhead,
        private_dirty_bytes=_total(f.private_dirty_bytes for f in arenas),
        lazyfree_bytes=_total(f.lazyfree_bytes for f in arenas),
    )


# ---- smaps, joined ----


def _entries_of(
    pieces: Sequence[Piece], smaps: Sequence[SmapsEntry]
) -> list[tuple[SmapsEntry, bool]]:
    """The smaps rows (ascending) that the pieces lie in, and whether each belongs to them alone."""
    touched: dict[int, list[Piece]] = {}
    for piece in pieces:
        beyond = piece.start + piece.mprotect_bytes
        at = bisect_right(smaps, piece.start, key=lambda entry: entry.mapping.end)
        while at < len(smaps) and smaps[at].mapping.start < beyond:
            touched.setdefault(at, []).append(piece)
            at += 1
    found = []
    for at, touching in sorted(touched.items()):
        start, end = smaps[at].mapping.start, smaps[at].mapping.end
        low = min(p.start - p.foreign_bytes for p in touching)
        high = max(p.start + p.mprotect_bytes for p in touching)
        # a break that does not end on a page leaves the rest of its last page to nobody else
        alone = low // 4096 * 4096 <= start and end <= -(-high // 4096) * 4096
        found.append((smaps[at], alone))
    return found


def dirty_and_lazyfree(
    reading: ArenaReading, smaps: Sequence[SmapsEntry] | None
) -> tuple[int | None, int | None]:
    """Private_Dirty and LazyFree of an arena. A mapping shared with another owner counts only when
    it is wholly dirty: then its resident pages are, whoever owns them."""
    if smaps is None:
        return None, None
    dirty: int | None = 0
    lazyfree: int | None = 0
    resident = sum(p.tally.pages.resident_bytes for p in reading.pieces)
    shared = False
    for entry, alone in _entries_of(reading.pieces, smaps):
        if alone:
            dirty = None if dirty is None else dirty + entry.private_dirty_bytes
            lazyfree = None if lazyfree is None else lazyfree + entry.lazyfree_bytes
            continue
        shared = True
        if entry.private_dirty_bytes != entry.rss_bytes:
            dirty = None
        if entry.lazyfree_bytes:
            lazyfree = None
    if shared and dirty is not None:
        wholly = all(
            entry.private_dirty_bytes == entry.rss_bytes
            for entry, _ in _entries_of(reading.pieces, smaps)
        )
        dirty = resident if wholly else None
    return dirty, lazyfree


# ---- the parts of the answer ----


def arena(reading: ArenaReading, smaps: Sequence[SmapsEntry] | None, consistency: str) -> Arena:
    """One arena of the contract. ``consistency`` is what holds when it validated."""
    dirty, lazyfree = dirty_and_lazyfree(reading, smaps)
    figures = _figures(reading, dirty, lazyfree)
    return Arena(
        index=reading.index,
        address=reading.state.address,
        is_main=reading.index == 0,
        attached_threads=reading.state.attached_threads,
        locked=reading.state.lock_word != 0,
        consistency="partial" if reading.problems and consistency != "frozen" else consistency,
        figures=figures,
        heaps=tuple(_heap(piece) for piece in reading.pieces),
    )


def size_classes(reading: HeapReading) -> tuple[SizeClass, ...]:
    """All arenas' chunks by size class, ascending; only classes with chunks."""
    return add_classes(piece.tally for item in reading.arenas for piece in item.pieces)


PAGE = 4096
FIRST_FEW = 10
"""How many page holders and large free chunks are named; the walk keeps as many of each row."""


def page_holders(classes: Sequence[SizeClass]) -> tuple[PageHolder, ...]:
    """The size classes whose live chunks are on the most resident pages. A page may count for
    several."""
    holding = sorted(
        (row for row in classes if row.pages_held), key=lambda row: (-row.pages_held, row.min_bytes)
    )
    return tuple(
        PageHolder(
            min_bytes=row.min_bytes,
            max_bytes=row.max_bytes,
            pages_held=row.pages_held,
            held_bytes=row.pages_held * PAGE,
            live_count=row.live_count,
            live_bytes=row.live_bytes,
        )
        for row in holding[:FIRST_FEW]
    )


def largest_free(reading: HeapReading) -> tuple[LargeFree, ...]:
    """The largest free chunks of all arenas, tops included."""
    found = [
        LargeFree(
            arena_index=item.index,
            address=chunk.address,
            size_bytes=chunk.size_bytes,
            resident_bytes=chunk.resident_bytes,
            is_top=chunk.address == item.state.top,
        )
        for item in reading.arenas
        for piece in item.pieces
        for chunk in piece.tally.largest
    ]
    found.sort(key=lambda chunk: (-chunk.size_bytes, chunk.address))
    return tuple(found[:FIRST_FEW])


def thread_caches(
    reading: HeapReading, sizes: dict[int, tuple[int, int]]
) -> tuple[ThreadCache, ...]:
    """Every thread's arena and tcache. ``sizes``: ``{tid: (count, bytes)}`` of its parked
    chunks."""
    by_address = {item.state.address: item.index for item in reading.arenas}

    def row(thread: ThreadState) -> ThreadCache:
        count, total = sizes.get(thread.tid, (0, 0))
        return ThreadCache(
            tid=thread.tid,
            name=thread.name,
            arena_index=None if thread.arena is None else by_address.get(thread.arena),
            tcache_address=None if thread.tcache is None else thread.tcache.address,
            tcache_count=count,
            tcache_bytes=total,
        )

    return tuple(row(thread) for thread in reading.threads)


def mmapped(reading: HeapReading, resident_bytes: int) -> Mmapped:
    """Chunks with their own mappings: glibc's count beside ours."""
    return Mmapped(
        count=reading.par.n_mmaps,
        bytes=reading.par.mmapped_mem,
        found_count=len(reading.mmapped),
        found_bytes=sum(end - start for start, end in reading.mmapped),
        resident_bytes=resident_bytes,
    )
