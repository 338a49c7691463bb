"""Reading a whole malloc, and making sure that what was read belongs together.

The target may run meanwhile. What does not validate (:mod:`allocscope.glibc.validate`) is read
again, in rounds, as long as that gains anything and there is time; what still does not is named.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from allocscope.errors import MemoryGap
from allocscope.glibc.layouts import Layout, TcacheLayout
from allocscope.glibc.locate import Located
from allocscope.glibc.main_arena import main_pieces, rows_of
from allocscope.glibc.marks import (
    Marks,
    Parked,
    detect_safe_linking,
    fast_chunks,
    known_chunks,
    park,
)
from allocscope.glibc.mmapped import find_mmapped
from allocscope.glibc.par import ParValues, parse_par
from allocscope.glibc.pieces import PLAIN_TRIM, Piece, Surroundings, Trim, thread_pieces
from allocscope.glibc.protocols import Memory, Walker
from allocscope.glibc.shapes import NOTHING, Shaped, find_by_shape
from allocscope.glibc.states import ArenaState, HeapInfo, InvalidHeap, read_heaps, read_ring
from allocscope.glibc.threads import (
    Tcache,
    ThreadHead,
    ThreadSlots,
    ThreadState,
    find_slots,
    find_tcbs,
    read_tcache,
    read_threads,
)
from allocscope.glibc.validate import ArenaReading, better, check, chunks_in_motion
from allocscope.immutable import immutable, replace

MAX_ROUNDS = 5
SIDE_BY_SIDE_BYTES = 4 << 20
"""Smaller arenas are read one after the other: two threads would rather wait for Python's lock."""
FEW = 256
BYTES_FOR_A_LINK = 1 << 16
"""Fastbins longer than FEW are not followed link by link: the arena is walked in doubt. Where that
does not lead to an answer, those longer than one link for so many bytes of the arena are followed
through its headers, kept from one reading: then a link costs no system call. A system call takes
three microseconds for one link of each list; keeping takes as long as there are many chunks."""


@immutable
class Subject:
    """What is read: memory, walk, where malloc lies, the threads, the writable anonymous mappings
    (ascending), the end of the break, which malloc_trim is to be foretold, and which of the
    mappings are of hugetlb pages. ``others_mmapped``: count and bytes of the chunks with mappings
    of their own that other mallocs of the process have; ``others_tcaches``: addresses of tcaches
    that are theirs."""

    memory: Memory
    walker: Walker
    located: Located
    threads: tuple[ThreadHead, ...]
    spans: tuple[tuple[int, int], ...]
    brk_end: int
    safe_linking_default: bool
    trim: Trim = PLAIN_TRIM
    hugetlb_spans: tuple[tuple[int, int], ...] = ()
    pins: bool = False
    others_mmapped: tuple[int, int] = (0, 0)
    others_tcaches: frozenset[int] = frozenset()


@immutable
class HeapReading:
    """All of a process's malloc at (nearly) one moment. ``also_fit``: further rows that the memory
    fits, where the library's version does not decide between them and ``layout``. ``mmapped``: the
    mappings of chunks that have one of their own, also of other mallocs. ``shaped_count``: tcaches
    that were found by their shape, because no thread tells of its own."""

    layout: Layout
    also_fit: tuple[Layout, ...]
    safe_linking: bool
    par: ParValues
    arenas: tuple[ArenaReading, ...]
    threads: tuple[ThreadState, ...]
    parked: Parked
    mmapped: tuple[tuple[int, int], ...]
    rounds: int
    shaped_count: int = 0
    tcaches_moved: bool = False
    """Did any tcache change while the last round was read?"""

    @property
    def owned(self) -> list[tuple[int, int]]:
        """All memory that chunks lie in, ascending: the arenas' and the mappings'."""
        rows = ((piece.start, piece.end) for item in self.arenas for piece in item.pieces)
        return sorted([*rows, *self.mmapped])

    @property
    def sound(self) -> bool:
        """Did every arena validate, and all cached chunks lie where chunks can be?"""
        chunks = self.parked.chunks
        inside = (bisect_left(chunks, end) - bisect_left(chunks, low) for low, end in self.owned)
        return (
            not any(item.problems for item in self.arenas)
            and not self.parked.broken
            and sum(inside) == len(chunks)
        )


@immutable
class _Round:
    """What one round has in common for all arenas, read at its beginning."""

    arenas: list[ArenaState]
    threads: list[ThreadState]
    tcaches: list[Tcache]
    safe_linking: bool
    parked: Parked
    around: Surroundings


class _Reader:
    """One subject, read round by round."""

    def __init__(self, subject: Subject, version: str | None, frozen: bool) -> None:
        self.subject = subject
        self.memory = subject.memory
        self.frozen = frozen
        self.moved = False
        self.tcbs = find_tcbs(self.memory, subject.threads)
        arenas = self.ring()
        self.slots = find_slots(
            self.memory,
            self.tcbs,
            {arena.address for arena in arenas},
            in_spans(subject.spans, self.memory.abi.alignment, subject.others_tcaches),
            tcache_layouts(subject.located),
            subject.located.par.tcache_count or 0,
        )
        self.shaped = NOTHING
        if not self.tcbs:
            self.shaped = self.by_shape(arenas)
            if self.shaped.layout is not None:
                keyed = self.shaped.key_is_address
                self.slots = ThreadSlots(self.shaped.layout, None, None, keyed)
        rows = fitting_rows(subject.located, self.slots, seen=self.shaped.layout is not None)
        self.layout = next((row for row in rows if version in row.versions), rows[0])
        self.also_fit = () if version in self.layout.versions else tuple(rows[1:])

    def ring(self) -> list[ArenaState]:
        """The ring of arenas; a new arena may be on its way in, so it is tried a few times."""
        located = self.subject.located
        for _ in range(MAX_ROUNDS):
            try:
                return read_ring(self.memory, located.main_arena, located.layout.state)
            except (InvalidHeap, MemoryGap):
                continue
        return read_ring(self.memory, located.main_arena, located.layout.state)

    def by_shape(self, arenas: Sequence[ArenaState]) -> Shaped:
        """The tcaches where no thread tells of its own."""
        located, abi = self.subject.located, self.memory.abi
        most = located.layout.heap_max_bytes(located.par.hp_pagesize)
        heaps = [(a, heap) for a in arenas[1:] for heap in read_heaps(self.memory, a, most)]
        spans = [(heap.start, heap.start + heap.size) for _, heap in heaps]
        header = located.layout.heap_info_bytes + located.layout.state.size
        firsts = {abi.first_chunk(h.start + header) for a, h in heaps if h.start < a.address}
        base = located.par.sbrk_base
        if base:
            spans += [(low, high) for low, high in self.subject.spans if low <= base < high]
            firsts.add(abi.first_chunk(base))
        fill = located.par.tcache_count or 0
        return find_by_shape(self.memory, spans, frozenset(firsts), tcache_layouts(located), fill)

    def tcaches(self, threads: Sequence[ThreadState], par: ParValues) -> list[Tcache]:
        """Those of the threads, or those found by their shape, under numbers that no thread has."""
        if not self.shaped.addresses:
            return [thread.tcache for thread in threads if thread.tcache is not None]
        layout, fill = self.shaped.layout, par.tcache_count or 0
        found = [
            read_tcache(self.memory, -number, address, layout, fill)
            for number, address in enumerate(self.shaped.addresses, 1)
        ]
        return [tcache for tcache in found if tcache is not None]

    def threads(self, arenas: Sequence[ArenaState], par: ParValues) -> list[ThreadState]:
        addresses = {arena.address for arena in arenas}
        return read_threads(
            self.memory,
            self.subject.threads,
            self.tcbs,
            self.slots,
            addresses,
            par.tcache_count or 0,
        )

    def begin(self) -> _Round:
        """Everything but the arenas' chunks."""
        subject, memory = self.subject, self.memory
        arenas = self.ring()
        where, layout = subject.located.par.address, self.layout.par
        par = parse_par(where, memory.read(where, layout.size), layout)
        threads = self.threads(arenas, par)
        tcaches = self.tcaches(threads, par)
        mangled = detect_safe_linking(memory, tcaches, arenas, subject.safe_linking_default)
        around = Surroundings(
            memory,
            subject.walker,
            self.layout,
            par,
            subject.spans,
            subject.brk_end,
            subject.trim,
            subject.hugetlb_spans,
            frozenset(arena.address for arena in arenas),
            pins=subject.pins,
        )
        parked = park(memory, subject.walker, tcaches, mangled)
        return _Round(arenas, threads, tcaches, mangled, parked, around)

    def read(
        self, memory: Memory, walker: Walker, now: _Round, index: int, arena: ArenaState
    ) -> ArenaReading:
        """One arena's chunks."""
        around = replace(now.around, memory=memory, walker=walker)
        heaps: tuple[HeapInfo, ...] = ()
        problems: tuple[str, ...] = ()
        pieces: list[Piece] = []
        try:
            if index:
                heaps = tuple(read_heaps(memory, arena, around.heap_max_bytes))
            pieces, whole = self._pieces(around, now, arena, heaps)
            if not whole:
                problems = ("a fastbin does not end as it should",)
        except (InvalidHeap, MemoryGap) as error:
            problems = (str(error),)
        return ArenaReading(index, arena, heaps, tuple(pieces), False, problems)

    def _pieces(
        self, around: Surroundings, now: _Round, arena: ArenaState, heaps: Sequence[HeapInfo]
    ) -> tuple[list[Piece], bool]:
        """The arena's rows, and whether its fastbins end as they should."""
        memory, walker, mangled = around.memory, around.walker, now.safe_linking
        known = known_chunks(arena, self.layout.state)
        rows = rows_of(around, arena, heaps)

        def walk(around: Surroundings, fast: Sequence[int] = ()) -> list[Piece]:
            marks = Marks(now.parked.chunks, fast, now.parked.structs, known)
            if arena.address == self.subject.located.main_arena:
                return main_pieces(around, arena, marks)
            return thread_pieces(around, arena, heaps, marks)

        few = max(FEW, arena.system_bytes // BYTES_FOR_A_LINK)
        in_doubt = mangled and walker.keeps_doubts and not (around.pins or around.trim.locked)
        fast, whole = fast_chunks(memory, arena, mangled, FEW if in_doubt else few, walker)
        if in_doubt and not whole:
            from allocscope.glibc.doubts import walked_in_doubt

            pieces = walked_in_doubt(around, arena, rows, walk)
            if pieces is not None:
                return pieces, True
            fast, whole = fast_chunks(memory, arena, mangled, few, walker)
        if whole:
            return walk(around, fast), True
        with memory.keeping(rows, arena.top):
            fast, whole = fast_chunks(memory, arena, mangled)
            return walk(replace(around, in_parts=False), fast), whole

    def read_each(
        self, now: _Round, arenas: Sequence[tuple[int, ArenaState]]
    ) -> list[ArenaReading]:
        """Several arenas, each with its index."""

        def work(memory: Memory, walker: Walker, item: tuple[int, ArenaState]) -> ArenaReading:
            return self.read(memory, walker, now, *item)

        small = [item for item in arenas if item[1].system_bytes < SIDE_BY_SIDE_BYTES]
        large = [item for item in arenas if item[1].system_bytes >= SIDE_BY_SIDE_BYTES]
        readings = [work(self.memory, self.subject.walker, item) for item in small]
        return readings + self.subject.walker.each(large, work)

    def checked(self, now: _Round, readings: Sequence[ArenaReading]) -> list[ArenaReading]:
        """The readings with their problems, after looking again at what may have changed."""
        moved = None
        if not self.frozen:
            after = self.threads(now.arenas, now.around.par)
            tcaches = self.tcaches(after, now.around.par)
            header = self.memory.abi.header_bytes
            moved = chunks_in_motion(now.tcaches, tcaches, now.parked, header)
        self.moved = bool(moved)
        state = self.layout.state
        return [
            check(self.memory, self.subject.walker, reading, state, moved) for reading in readings
        ]


def read_heap(
    subject: Subject,
    *,
    version: str | None,
    expired: Callable[[], bool],
    max_rounds: int = MAX_ROUNDS,
    frozen: bool = False,
) -> HeapReading:
    """Reads everything. ``expired`` tells when to stop repeating; ``frozen``: nothing can change,
    so one round must do.

    InvalidHeap when the arenas do not hold together even for a moment."""
    reader = _Reader(subject, version, frozen)
    best: dict[int, ArenaReading] = {}
    rounds, unsound = 0, 0
    while True:
        rounds += 1
        now = reader.begin()
        wanted = [
            (index, arena)
            for index, arena in enumerate(now.arenas)
            if arena.address not in best or best[arena.address].problems
        ]
        readings = reader.read_each(now, wanted)
        for reading in reader.checked(now, readings):
            old = best.get(reading.state.address)
            if old is None or better(reading, old):
                best[reading.state.address] = reading
        left = sum(bool(best[arena.address].problems) for arena in now.arenas)
        gained = rounds == 1 or left < unsound
        unsound = left
        if frozen or not left or not gained or rounds >= max_rounds or expired():
            break
    arenas = tuple(
        replace(best[arena.address], index=index) for index, arena in enumerate(now.arenas)
    )
    par = now.around.par
    owned = [(piece.start, piece.end) for item in arenas for piece in item.pieces]
    others_count, others_bytes = subject.others_mmapped
    mmapped = find_mmapped(
        subject.memory,
        _without(subject.spans, owned),
        reader.layout.mmap_size_is_usable,
        par.n_mmaps + others_count,
        par.mmapped_mem + others_bytes,
    )
    return HeapReading(
        layout=reader.layout,
        also_fit=reader.also_fit,
        safe_linking=now.safe_linking,
        par=par,
        arenas=arenas,
        threads=tuple(now.threads),
        parked=now.parked,
        mmapped=tuple(mmapped),
        rounds=rounds,
        shaped_count=len(reader.shaped.addresses),
        tcaches_moved=reader.moved,
    )


def fitting_rows(located: Located, slots: ThreadSlots, seen: bool = False) -> list[Layout]:
    """Of the rows that fit the memory: those with the tcache and the keys that were seen. Where
    several are left, they differ in nothing that this process shows."""
    rows = list(located.layouts)
    if (seen or slots.tcache_offset is not None) and slots.layout is not None:
        entries = slots.layout.entries
        rows = [row for row in rows if row.tcache and row.tcache.entries == entries] or rows
    if slots.key_is_address is not None:
        keyed = slots.key_is_address
        rows = [row for row in rows if row.tcache and row.tcache.key_is_address == keyed] or rows
    return rows


def tcache_layouts(located: Located) -> list[TcacheLayout]:
    return list({row.tcache.name: row.tcache for row in located.layouts if row.tcache}.values())


def in_spans(
    spans: Sequence[tuple[int, int]], alignment: int, others: frozenset[int] = frozenset()
) -> Callable[[int], bool]:
    """Can an address be that of a tcache? ``others``: what is known to be no tcache of ours."""
    low, high = (spans[0][0], spans[-1][1]) if spans else (0, 0)
    return lambda word: low <= word < high and word % alignment == 0 and word not in others


def _without(
    spans: Sequence[tuple[int, int]], owned: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """The spans (ascending) less what arenas own."""
    left: list[tuple[int, int]] = []
    taken = sorted(owned)
    first = 0
    for start, end in spans:
        while first < len(taken) and taken[first][1] <= start:
            first += 1
        at = first
        while at < len(taken) and taken[at][0] < end:
            low, high = taken[at]
            if low > start:
                left.append((start, low))
            start = max(start, high)
            at += 1
        if start < end:
            left.append((start, end))
    return left
