"""The ledger of RSS: every resident byte in one row, and the rows held against the kernel's sum.

Strategy: holdings (mappings divided by owner) go into their row as they are; the heaps of glibc's
arenas are divided further by what the walk counted, chunk by chunk, a page that two chunks share by
byte. Rules: nothing is a remainder. What is between and around the chunks (headers, alignment,
foreign memory, the rest of the last page) is counted by itself, so that ``drift_bytes``, the
kernel's RSS less all rows, is 0 for a process that stands still and says so where it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from allocscope.glibc.pieces import Piece
from allocscope.glibc.reading import HeapReading
from allocscope.glibc.validate import ArenaReading
from allocscope.model.ledger import Ledger, LedgerKey, LedgerRow
from allocscope.model.owners import Holding
from allocscope.model.process import SmapsEntry
from allocscope.model.situation import ArenaResidence
from allocscope.owners.heap import extents
from allocscope.units import plural, size

LABELS: dict[LedgerKey, str] = {
    "glibc-live": "malloc, live",
    "glibc-tcache": "malloc, thread caches",
    "glibc-fastbin": "malloc, fastbins",
    "glibc-free-whole-pages": "malloc, free whole pages",
    "glibc-free-shared-pages": "malloc, free, page shared",
    "glibc-top": "malloc, ends of heaps",
    "glibc-overhead": "malloc, own structures",
    "glibc-unread": "malloc, not readable",
    "glibc-mmapped": "malloc, large mappings",
    "other-allocator": "other allocators",
    "runtime-heap": "language runtimes",
    "thread-stacks": "thread stacks",
    "file-private": "files, private (code)",
    "file-shared": "files, shared",
    "shared-memory": "shared memory",
    "program-data": "program data",
    "loader-and-special": "loader, kernel pages",
    "unexplained": "unexplained",
    "not-recorded": "not recorded",
}
NOT_RECORDED: LedgerKey = "not-recorded"
MALLOC_ROWS = frozenset(key for key in LABELS if key.startswith("glibc-"))
MOST_EVIDENCE = 4
BROKEN_LEDGER_RATIO = 0.001
"""Drift beyond this share of RSS is an error (exit 6)."""

Sizes = Callable[[int, int], int]
"""Resident bytes of ``[start, end)``, by byte."""


class _Sum:
    """A row while it is added up. What is unknown of one part is unknown of the row."""

    __slots__ = (
        "evidence",
        "lazyfree_bytes",
        "resident_bytes",
        "swapped_bytes",
        "virtual_bytes",
    )

    def __init__(self) -> None:
        self.virtual_bytes = self.resident_bytes = 0
        self.lazyfree_bytes: int | None = 0
        self.swapped_bytes: int | None = 0
        self.evidence: dict[str, int] = {}

    def add(self, virtual: int, resident: int, lazyfree: int | None, swapped: int | None) -> None:
        self.virtual_bytes += virtual
        self.resident_bytes += resident
        self.lazyfree_bytes = _plus(self.lazyfree_bytes, lazyfree)
        self.swapped_bytes = _plus(self.swapped_bytes, swapped)

    def row(self, key: LedgerKey) -> LedgerRow:
        heaviest = sorted(self.evidence, key=lambda text: -self.evidence[text])
        told = heaviest[:MOST_EVIDENCE]
        if len(heaviest) > len(told):
            told.append(f"and {len(heaviest) - len(told)} more")
        return LedgerRow(
            key=key,
            label=LABELS[key],
            virtual_bytes=self.virtual_bytes,
            resident_bytes=self.resident_bytes,
            lazyfree_bytes=self.lazyfree_bytes,
            swapped_bytes=self.swapped_bytes,
            evidence=tuple(told),
        )


def _plus(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def ledger(
    entries: Sequence[SmapsEntry],
    holdings: Iterable[Holding],
    reading: HeapReading,
    resident: Sizes,
) -> Ledger:
    """The whole ledger. ``resident`` is asked for the few bytes around rows of chunks."""
    sums: dict[LedgerKey, _Sum] = {key: _Sum() for key in LABELS}
    heaps = []
    for holding in holdings:
        if holding.row is None:
            heaps.append(holding)
        else:
            _add_holding(sums[holding.row], holding)
    _add_heaps(sums, heaps, reading, resident)
    rss = sum(entry.rss_bytes for entry in entries)
    told = [key for key in LABELS if key != NOT_RECORDED or sums[key].virtual_bytes]
    rows = tuple(sums[key].row(key) for key in told)
    return Ledger(rss, rows, rss - sum(row.resident_bytes for row in rows))


def of_a_part(known: Ledger, rss_bytes: int | None) -> Ledger:
    """The ledger of a process of which not all is told. Who has nothing of what is ``known`` is
    left out: whether it has nothing of the rest nobody can say. ``rss_bytes``: of the whole process
    where ``known`` is about a part of its mappings; the rest falls to the row ``not-recorded``."""
    rows = [row for row in known.rows if row.resident_bytes or row.key in MALLOC_ROWS]
    if rss_bytes is None:
        return Ledger(known.rss_bytes, tuple(rows), known.drift_bytes)
    left = rss_bytes - sum(row.resident_bytes for row in rows)
    if left <= 0:
        return Ledger(rss_bytes, tuple(rows), left)
    said = (
        f"{size(left)} of RSS are in mappings of which no figures are recorded: programs, "
        "libraries, files, shared memory"
    )
    total = left + known.resident(NOT_RECORDED)
    evidence = (said, *known.evidence_of(NOT_RECORDED))
    row = LedgerRow(NOT_RECORDED, LABELS[NOT_RECORDED], total, total, None, None, evidence)
    return Ledger(rss_bytes, (*(one for one in rows if one.key != NOT_RECORDED), row), 0)


def too_much_drift(found: Ledger) -> bool:
    return abs(found.drift_bytes) > BROKEN_LEDGER_RATIO * found.rss_bytes


def _add_holding(into: _Sum, holding: Holding) -> None:
    into.add(
        holding.virtual_bytes,
        holding.resident_bytes or 0,
        holding.lazyfree_bytes,
        holding.swapped_bytes,
    )
    if holding.resident_bytes:
        text = f"{holding.owner}: {holding.evidence}"
        into.evidence[text] = into.evidence.get(text, 0) + holding.resident_bytes


# ---- glibc's heaps ----


def _add_heaps(
    sums: dict[LedgerKey, _Sum], heaps: Sequence[Holding], reading: HeapReading, resident: Sizes
) -> None:
    lazyfree = 0 if not any(holding.lazyfree_bytes != 0 for holding in heaps) else None
    swapped = 0 if not any(holding.swapped_bytes != 0 for holding in heaps) else None
    for arena in reading.arenas:
        for key, virtual, there in _of_arena(arena, resident):
            sums[key].add(virtual, there, lazyfree, swapped)
    arenas = len(reading.arenas)
    found = (
        f"{plural(arenas, 'arena')} in a closed ring ({reading.layout.name}), every chunk's header "
        "leading to the next, up to top"
    )
    for key in _HEAP_ROWS:
        if sums[key].resident_bytes:
            sums[key].evidence[f"{_HEAP_ROWS[key]}; {found}"] = 1
    pieces = (piece for arena in reading.arenas for piece in arena.pieces)
    if locked := sum(piece.tally.bin_locked_bytes for piece in pieces):
        text = f"{size(locked)} of them are mlocked: malloc_trim's madvise fails there"
        sums["glibc-free-whole-pages"].evidence[text] = 0


_HEAP_ROWS: dict[LedgerKey, str] = {
    "glibc-live": "chunks that no list has",
    "glibc-tcache": "chunks in the lists of thread caches",
    "glibc-fastbin": "chunks in the lists of fastbins",
    "glibc-free-whole-pages": "pages within free chunks that malloc_trim would release",
    "glibc-free-shared-pages": "bytes of free chunks on pages that hold something else too",
    "glibc-top": "the last chunk of each arena",
    "glibc-overhead": "arenas, heap headers, thread caches, fenceposts, alignment",
    "glibc-unread": "bytes between a broken header and the next known chunk",
}


def residence(arena: ArenaReading, resident: Sizes) -> ArenaResidence:
    """One arena's share of the rows."""
    sums: dict[LedgerKey, int] = dict.fromkeys(_HEAP_ROWS, 0)
    for key, _, there in _of_arena(arena, resident):
        sums[key] += there
    last = next((p.tally for p in reversed(arena.pieces) if p.tally.last_live), None)
    return ArenaResidence(
        index=arena.index,
        live_bytes=sums["glibc-live"],
        tcache_bytes=sums["glibc-tcache"],
        fastbin_bytes=sums["glibc-fastbin"],
        whole_pages_bytes=sums["glibc-free-whole-pages"],
        locked_pages_bytes=sum(piece.tally.bin_locked_bytes for piece in arena.pieces),
        shared_pages_bytes=sums["glibc-free-shared-pages"],
        top_bytes=sums["glibc-top"],
        top_trimmable_bytes=sum(piece.tally.top_trimmable_bytes for piece in arena.pieces),
        overhead_bytes=sums["glibc-overhead"],
        unread_bytes=sums["glibc-unread"],
        last_live=last.last_live if last is not None else None,
        last_live_bytes=last.last_live_bytes if last is not None else 0,
    )


def _of_arena(arena: ArenaReading, resident: Sizes) -> Iterable[tuple[LedgerKey, int, int]]:
    for piece, extent in zip(arena.pieces, extents(arena.pieces), strict=True):
        yield from _of_piece(piece, extent, resident)


def _of_piece(
    piece: Piece, extent: tuple[int, int], resident: Sizes
) -> Iterable[tuple[LedgerKey, int, int]]:
    """(row, virtual bytes, resident bytes) of one row of chunks and what lies around it."""
    t = piece.tally
    yield "glibc-live", t.live_bytes, t.live_resident_bytes
    yield "glibc-tcache", t.tcache_bytes, t.tcache_resident_bytes
    yield "glibc-fastbin", t.fastbin_bytes, t.fastbin_resident_bytes
    whole_resident = t.bin_trimmable_bytes + t.bin_locked_bytes
    yield "glibc-free-whole-pages", t.bin_whole_bytes, whole_resident
    yield (
        "glibc-free-shared-pages",
        t.bin_bytes - t.bin_whole_bytes,
        t.bin_resident_bytes - whole_resident,
    )
    yield "glibc-top", t.top_bytes, t.top_resident_bytes
    yield "glibc-unread", t.unread_bytes, t.unread_resident_bytes
    yield (
        "glibc-overhead",
        t.fencepost_bytes + t.tcache_struct_bytes,
        t.fencepost_resident_bytes + t.tcache_struct_resident_bytes,
    )
    first = piece.start + piece.header_bytes + piece.alignment_bytes
    for low, high in ((extent[0], first), (piece.end, extent[1])):
        if low < high:
            yield "glibc-overhead", high - low, resident(low, high)
