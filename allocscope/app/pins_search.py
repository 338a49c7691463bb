"""Finding out about pins: what the chunks that end heaps are, and who points at them, in whatever
memory holds the heap.

Strategy: the walk finds the chunks; one pass over all writable memory finds the words that point
into them, and a second one those that point into the heap chunks which the first pass found. A
word that merely looks like a pointer is taken for one: this is what a conservative garbage
collector does, and errs on the same side.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence

from allocscope.account import kinds
from allocscope.account import pins as account
from allocscope.account.pins import HeapEnd
from allocscope.errors import MemoryGap
from allocscope.glibc.reading import HeapReading
from allocscope.immutable import immutable
from allocscope.model.owners import Holding
from allocscope.model.pins import Kind, Pin, PinsData, Reference, Referrer
from allocscope.model.process import Mapping
from allocscope.native.memory import NativeMemory
from allocscope.proc.names import Names

MOST_REFERRERS = 6
MOST_THROUGH = 2
MOST_TARGETS = 64
SHOWN_BYTES = 64

Span = tuple[int, int]


@immutable
class PinsOptions:
    """``most``: of how many chunks to find out more. ``show_bytes``: with their first bytes, which
    are the program's secrets. ``deadline_s``: seconds after which nothing more is started."""

    most: int = 10
    show_bytes: bool = False
    deadline_s: float = 30.0


@immutable
class Searched:
    """What pins are sought in. ``parts``: whose all memory is, ascending. ``brk_end``: where the
    break ends. ``spans``: memory in which pointers are looked for; None where the program's data
    are not known. ``tells_residency``: whether the memory's page states are those of a process."""

    memory: NativeMemory
    reading: HeapReading
    parts: Sequence[Holding]
    names: Names
    brk_end: int
    spans: Sequence[Span] | None
    tells_residency: bool = True


def writable(mappings: Iterable[Mapping]) -> tuple[Span, ...]:
    """All writable private memory: where pointers are."""
    return tuple((m.start, m.end) for m in mappings if m.writable and m.readable and m.private)


def search(searched: Searched, options: PinsOptions) -> PinsData:
    """What keeps free memory, and what it is, as far as the memory tells."""
    return _Searcher(searched).data(options)


class _Searcher:
    """One process while its pins are found out about."""

    def __init__(self, searched: Searched) -> None:
        self.searched = searched
        self.memory = searched.memory
        self.reading = searched.reading
        self.parts = searched.parts
        self.spans = searched.spans
        self.starts = [part.start for part in searched.parts]
        self.scanned_bytes = 0
        self.header_bytes = searched.memory.abi.header_bytes

    def data(self, options: PinsOptions) -> PinsData:
        def resident(start: int, end: int) -> int:
            return self.memory.residency(start, end).resident_bytes

        told = resident if self.searched.tells_residency else None
        ends = account.heap_ends(self.reading, self.memory.abi, self.searched.brk_end, told)
        ends = ends[: options.most]
        known = self.spans is not None
        said = self._referrers(sorted(ends, key=lambda end: end.chunk)) if known else {}
        return PinsData(
            pins=tuple(self._pin(end, said.get(end.chunk), options.show_bytes) for end in ends),
            size_classes=account.pinning_classes(self.reading),
            mixed_bytes=account.mixed_bytes(self.reading),
            parked_bytes=account.parked_bytes(self.reading),
            scanned_bytes=self.scanned_bytes if known else None,
        )

    def _pin(
        self, end: HeapEnd, said: tuple[int, tuple[Referrer, ...]] | None, show_bytes: bool
    ) -> Pin:
        """``said``: how many words point at it, and who; None where the data are not known."""
        first = self._first_bytes(end) if said is not None and end.held_by == "live" else b""
        kind = self._kind(first) if first else Kind("unknown", "")
        count, referrers = (None, None) if said is None else said
        return Pin(
            arena_index=end.arena_index,
            heap_start=end.heap_start,
            chunk=end.chunk,
            size_bytes=end.size_bytes,
            held_by=end.held_by,
            run_count=end.run_count,
            run_bytes=end.run_bytes,
            free_bytes_below=end.free_bytes_below,
            released_if_freed_bytes=end.released_if_freed_bytes,
            kind=None if said is None else kind,
            referrer_count=count,
            referrers=referrers,
            first_bytes=first.hex() if show_bytes and said is not None else None,
        )

    def _kind(self, first: bytes) -> Kind:
        return kinds.kind_of(first, self.memory.abi, self.place, self.name)

    def _first_bytes(self, end: HeapEnd) -> bytes:
        size = min(kinds.LOOKED_AT_BYTES, end.size_bytes - self.memory.abi.word_bytes)
        try:
            return self.memory.read(end.chunk + self.header_bytes, size)
        except MemoryGap:
            return b""

    # ---- what an address lies in ----

    def _part(self, address: int) -> Holding | None:
        at = bisect_right(self.starts, address) - 1
        return self.parts[at] if at >= 0 and address < self.parts[at].end else None

    def place(self, address: int) -> str:
        part = self._part(address)
        if part is None:
            return ""
        if part.key in ("program-data", "file-private"):
            return "code" if "x" in part.perms else "data"
        if part.key in ("glibc-main-heap", "glibc-thread-heap", "glibc-mmapped"):
            return "heap"
        return "stack" if part.key == "thread-stacks" else "mapped"

    def name(self, address: int) -> str:
        part = self._part(address)
        if part is None:
            return f"{address:#x}"
        if part.key == "unexplained":
            return f"unexplained memory at {part.start:#x}"
        if part.owner.startswith("/") and part.key in ("program-data", "file-private"):
            return self.searched.names.at(part.owner, address)
        return part.owner.rpartition("/")[2]

    # ---- who points there ----

    def _search(
        self, targets: Sequence[tuple[int, int]], most: int
    ) -> tuple[list[Reference], list[int]]:
        """All memory that is searched, but for what lies within the targets themselves."""
        found: list[Reference] = []
        totals = [0] * len(targets)
        for span in self.spans or ():
            here, counts, scanned = self.memory.references(span, targets, most)
            self.scanned_bytes += scanned
            for reference in here:
                start, end = targets[reference.target]
                if not start <= reference.where_address < end:
                    found.append(reference)
                else:
                    counts[reference.target] -= 1
            totals = [one + other for one, other in zip(totals, counts, strict=True)]
        return found, totals

    def _referrers(self, ends: Sequence[HeapEnd]) -> dict[int, tuple[int, tuple[Referrer, ...]]]:
        """For each chunk how many words point into it, and the first of them by name."""
        targets = [(end.chunk + self.header_bytes, end.chunk + end.size_bytes) for end in ends]
        found, totals = self._search(targets, MOST_REFERRERS)
        chunks = self._chunks_of([reference.where_address for reference in found])
        above = self._pointed_at(set(chunks.values()))
        said = {}
        for number, end in enumerate(ends):
            mine = [r for r in found if r.target == number][:MOST_REFERRERS]
            rows = [self._referrer(r, targets[number][0], chunks, above) for r in mine]
            said[end.chunk] = (totals[number], tuple(rows))
        return said

    def _referrer(
        self,
        reference: Reference,
        start: int,
        chunks: dict[int, int],
        above: dict[int, tuple[str, ...]],
    ) -> Referrer:
        chunk = chunks.get(reference.where_address)
        where = self.name(reference.where_address) if chunk is None else f"heap chunk {chunk:#x}"
        return Referrer(
            where=where,
            address=reference.where_address,
            to_start=reference.value == start,
            through=() if chunk is None else above.get(chunk, ()),
        )

    def _pointed_at(self, chunks: set[int]) -> dict[int, tuple[str, ...]]:
        """Who points at the beginnings of these chunks."""
        ascending = sorted(chunks)[:MOST_TARGETS]
        users = [chunk + self.header_bytes for chunk in ascending]
        starts = [(user, user + 1) for user in users]
        found, _ = self._search(starts, MOST_THROUGH)
        below = self._chunks_of([reference.where_address for reference in found])
        names: dict[int, tuple[str, ...]] = {}
        for reference in found:
            chunk = below.get(reference.where_address)
            name = self.name(reference.where_address) if chunk is None else f"heap chunk {chunk:#x}"
            at = ascending[reference.target]
            names[at] = (*names.get(at, ()), name)[:MOST_THROUGH]
        return names

    def _chunks_of(self, addresses: Sequence[int]) -> dict[int, int]:
        """The heap chunk that each address lies in, for those that lie in one."""
        found: dict[int, int] = {}
        ascending = sorted(set(addresses))
        for arena in self.reading.arenas:
            for piece in arena.pieces:
                first = piece.start + piece.header_bytes + piece.alignment_bytes
                inside = [a for a in ascending if first <= a < piece.end]
                if inside:
                    chunks = self.memory.chunks_at(first, piece.end, inside)
                    found |= {a: c for a, c in zip(inside, chunks, strict=True) if c}
        for start, end in self.reading.mmapped:
            found |= {a: start for a in ascending if start <= a < end}
        return found
