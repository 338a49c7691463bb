"""``pins``: the chunks that keep free memory in the process, what they are, and who points at them.
It only reads.

Strategy: the walk finds the chunks; one pass over all writable memory finds the words that point
into them, and a second one those that point into the heap chunks which the first pass found. A
word that merely looks like a pointer is taken for one: this is what a conservative garbage
collector does, and errs on the same side.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence

from allocscope.account import kinds
from allocscope.account import pins as account
from allocscope.account.pins import HeapEnd
from allocscope.app import heap
from allocscope.app.arenas import allocator_of
from allocscope.app.ownership import caveats as owner_caveats
from allocscope.app.ownership import holdings
from allocscope.app.target import Target, look
from allocscope.errors import MemoryGap
from allocscope.glibc.reading import HeapReading
from allocscope.immutable import immutable
from allocscope.model.owners import Holding
from allocscope.model.pins import Kind, Pin, PinsData, Reference, Referrer
from allocscope.model.report import Caveat, Method, Report
from allocscope.native.memory import NativeMemory
from allocscope.proc import procfs
from allocscope.proc.memory import ProcessMemory
from allocscope.proc.names import Names

MOST_REFERRERS = 6
MOST_THROUGH = 2
MOST_TARGETS = 64
SHOWN_BYTES = 64


@immutable
class PinsOptions:
    """``most``: of how many chunks to find out more. ``show_bytes``: with their first bytes, which
    are the program's secrets. ``deadline_s``: seconds after which nothing more is started."""

    most: int = 10
    show_bytes: bool = False
    deadline_s: float = 30.0


def pins(pid: int, options: PinsOptions) -> Report[PinsData]:
    """What holds the free memory of ``pid``.

    Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5)."""
    started = time.monotonic_ns()
    deadline_ns = started + int(options.deadline_s * 1e9)
    target = look(pid)
    before = procfs.stillness(pid)
    with ProcessMemory(pid) as memory:
        answer = heap.read(memory, target, sort=heap.VALIDATED, deadline_ns=deadline_ns, pins=True)
        entries = procfs.smaps(pid)
        parts = holdings(pid, memory, target, answer.reading, entries)
        searcher = _Searcher(memory, target, answer.reading, parts)
        data = searcher.data(options)
        of_owners = owner_caveats(memory)
    allocator, caveats = allocator_of(pid, target.mappings, answer.image)
    after = procfs.stillness(pid)
    procfs.same(target.process)
    rss = sum(entry.rss_bytes for entry in entries)
    shown = heap.present(answer, target, rss_bytes=rss, smaps=entries)
    consistency = answer.consistency_between(before, after)
    if time.monotonic_ns() > deadline_ns:
        text = "the deadline came before all memory was searched; raise --deadline."
        caveats += (Caveat("deadline", text, partial=True),)
    return Report(
        process=target.process,
        libc=answer.libc,
        allocator=allocator,
        method=Method("passive", 0, time.monotonic_ns() - started, consistency),
        data=data,
        caveats=caveats + of_owners + heap.caveats(answer, shown),
    )


class _Searcher:
    """One process while its pins are found out about."""

    def __init__(
        self,
        memory: NativeMemory,
        target: Target,
        reading: HeapReading,
        parts: Sequence[Holding],
    ) -> None:
        self.memory = memory
        self.target = target
        self.reading = reading
        self.parts = parts
        self.starts = [part.start for part in parts]
        self.names = Names(target.process.pid, target.mappings)
        self.scanned_bytes = 0
        self.header_bytes = memory.abi.header_bytes

    def data(self, options: PinsOptions) -> PinsData:
        def resident(start: int, end: int) -> int:
            return self.memory.residency(start, end).resident_bytes

        brk_end = max((end for _, end in self.target.brk_spans), default=0)
        ends = account.heap_ends(self.reading, self.memory.abi, brk_end, resident)[: options.most]
        said = self._referrers(sorted(ends, key=lambda end: end.chunk))
        return PinsData(
            pins=tuple(self._pin(end, *said[end.chunk], options.show_bytes) for end in ends),
            size_classes=account.pinning_classes(self.reading),
            mixed_bytes=account.mixed_bytes(self.reading),
            parked_bytes=account.parked_bytes(self.reading),
            scanned_bytes=self.scanned_bytes,
        )

    def _pin(
        self, end: HeapEnd, count: int, referrers: tuple[Referrer, ...], show_bytes: bool
    ) -> Pin:
        first = self._first_bytes(end) if end.held_by == "live" else b""
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
            kind=self._kind(first) if first else Kind("unknown", ""),
            referrer_count=count,
            referrers=referrers,
            first_bytes=first.hex() if show_bytes else None,
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
        if part.owner.startswith("/") and part.key in ("program-data", "file-private"):
            return self.names.at(part.owner, address)
        return part.owner.rpartition("/")[2]

    # ---- who points there ----

    def _search(
        self, targets: Sequence[tuple[int, int]], most: int
    ) -> tuple[list[Reference], list[int]]:
        """All writable private memory, but for what lies within the targets themselves."""
        found: list[Reference] = []
        totals = [0] * len(targets)
        for mapping in self.target.mappings:
            if not (mapping.writable and mapping.readable and mapping.private):
                continue
            here, counts, scanned = self.memory.references(
                (mapping.start, mapping.end), targets, most
            )
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
