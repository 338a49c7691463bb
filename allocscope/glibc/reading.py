"""Reading a whole malloc, and making sure that what was read belongs together.

The target may run meanwhile. So an arena counts as validated only when, after the walk, its header
and the tcaches whose chunks lie in it are byte for byte what they were before, and the chunks found
free by the walk are exactly those that the bins' lists hold. What does not validate is read again,
a few times within the deadline; what still does not is named.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from allocscope.errors import MemoryGap
from allocscope.glibc.layouts import Layout
from allocscope.glibc.locate import Located
from allocscope.glibc.marks import Marks, collect, detect_safe_linking
from allocscope.glibc.mmapped import find_mmapped
from allocscope.glibc.par import ParValues, parse_par
from allocscope.glibc.pieces import Piece, Surroundings, main_pieces, thread_pieces
from allocscope.glibc.protocols import Memory, Walker
from allocscope.glibc.states import (
    ArenaState,
    HeapInfo,
    InvalidHeap,
    read_heaps,
    read_ring,
    read_state,
)
from allocscope.glibc.threads import (
    Tcache,
    ThreadHead,
    ThreadSlots,
    ThreadState,
    find_slots,
    find_tcbs,
    read_threads,
)
from allocscope.model.walk import STOP_BROKEN_TOP, STOP_DAMAGE, STOP_DEADLINE

MAX_ROUNDS = 5
_MASK64 = (1 << 64) - 1


@dataclasses.dataclass(frozen=True, slots=True)
class ArenaReading:
    """One arena as read. ``problems`` is empty when it validated; ``changed``: it, or a tcache with
    chunks of it, was seen to change meanwhile; ``lists_match``: the bins' lists hold exactly what
    the walk found."""

    index: int
    state: ArenaState
    heaps: tuple[HeapInfo, ...]
    pieces: tuple[Piece, ...]
    lists_match: bool
    changed: bool
    problems: tuple[str, ...]

    @property
    def accounted_bytes(self) -> int:
        """What the pieces cover."""
        return sum(piece.end - piece.start + piece.foreign_bytes for piece in self.pieces)


@dataclasses.dataclass(frozen=True, slots=True)
class HeapReading:
    """All of a process's malloc at (nearly) one moment."""

    layout: Layout
    safe_linking: bool
    par: ParValues
    arenas: tuple[ArenaReading, ...]
    threads: tuple[ThreadState, ...]
    slots: ThreadSlots
    marks: Marks
    mmapped: tuple[tuple[int, int], ...]
    rounds: int


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """What is read: memory, walk, where malloc lies, the threads, and the writable anonymous
    mappings (ascending)."""

    memory: Memory
    walker: Walker
    located: Located
    threads: tuple[ThreadHead, ...]
    spans: tuple[tuple[int, int], ...]
    brk_end: int
    safe_linking_default: bool


def _choose_layout(located: Located, slots: ThreadSlots, preferred: str | None) -> Layout:
    """Of the rows that fit: those with the tcache that was seen, and among them the one of the
    release that the library names."""
    rows = [row for row in located.layouts if row.tcache.name == slots.layout.name]
    if slots.tcache_offset is not None:
        same = {row.tcache.entries for row in rows}
        rows = [row for row in located.layouts if row.tcache.entries in same]
    rows = rows or list(located.layouts)
    for row in rows:
        if preferred in row.versions:
            return row
    return rows[0]


def _in_spans(spans: Sequence[tuple[int, int]]) -> Callable[[int], bool]:
    low, high = (spans[0][0], spans[-1][1]) if spans else (0, 0)
    return lambda address: low <= address < high and address % 16 == 0


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
    memory, located = subject.memory, subject.located
    tcbs = find_tcbs(memory, subject.threads)
    arenas = _stable_ring(subject)
    addresses = {arena.address for arena in arenas}
    tcache_layouts = list({row.tcache.name: row.tcache for row in located.layouts}.values())
    slots = find_slots(
        memory, tcbs, addresses, _in_spans(subject.spans), tcache_layouts, located.par.tcache_count
    )
    layout = _choose_layout(located, slots, version)

    best: dict[int, ArenaReading] = {}
    safe_linking = subject.safe_linking_default
    rounds, unsound = 0, len(arenas) + 1
    while True:
        rounds += 1
        if rounds > 1:
            arenas = _stable_ring(subject)
        par = _read_par(subject)
        addresses = {arena.address for arena in arenas}
        threads = read_threads(memory, subject.threads, tcbs, slots, addresses, par.tcache_count)
        tcaches = [t.tcache for t in threads if t.tcache is not None]
        if rounds == 1:
            safe_linking = detect_safe_linking(memory, tcaches, arenas, safe_linking)
        marks = collect(memory, tcaches, arenas, safe_linking)
        around = Surroundings(
            memory, subject.walker, layout, par, marks, subject.spans, subject.brk_end
        )
        readings = [
            _read_arena(around, i, arena)
            for i, arena in enumerate(arenas)
            if best.get(arena.address) is None or best[arena.address].problems
        ]
        touched = (
            set()
            if frozen
            else _changed_chunks(memory, subject, tcbs, slots, addresses, par, tcaches, marks)
        )
        for reading in readings:
            checked = _check(subject, reading, layout, touched, frozen)
            address = reading.state.address
            if address not in best or _better(checked, best[address]):
                best[address] = checked
        settled = [best[arena.address] for arena in arenas]
        left = sum(bool(r.problems) for r in settled)
        gained, unsound = unsound - left, left
        if frozen or not left or not gained or rounds >= max_rounds or expired():
            break
    ordered = tuple(
        dataclasses.replace(best[arena.address], index=i) for i, arena in enumerate(arenas)
    )
    owned = [(p.start, p.end) for r in ordered for p in r.pieces]
    free_spans = _without(subject.spans, owned)
    mmapped = find_mmapped(
        memory, free_spans, layout.mmap_size_is_usable, par.n_mmaps, par.mmapped_mem
    )
    return HeapReading(
        layout=layout,
        safe_linking=safe_linking,
        par=par,
        arenas=ordered,
        threads=tuple(threads),
        slots=slots,
        marks=marks,
        mmapped=tuple(mmapped),
        rounds=rounds,
    )


def _stable_ring(subject: Subject) -> list[ArenaState]:
    """The ring of arenas; a new arena may be on its way in, so a ring that does not close is read
    again a few times."""
    for _ in range(MAX_ROUNDS):
        try:
            return read_ring(
                subject.memory, subject.located.main_arena, subject.located.layout.state
            )
        except (InvalidHeap, MemoryGap):
            continue
    return read_ring(subject.memory, subject.located.main_arena, subject.located.layout.state)


def _read_par(subject: Subject) -> ParValues:
    par = subject.located.par
    return parse_par(par.address, subject.memory.read(par.address, par.layout.size), par.layout)


def _read_arena(around: Surroundings, index: int, arena: ArenaState) -> ArenaReading:
    heaps: tuple[HeapInfo, ...] = ()
    problems: tuple[str, ...] = ()
    pieces: list[Piece] = []
    try:
        if index == 0:
            pieces = main_pieces(around, arena)
        else:
            heaps = tuple(read_heaps(around.memory, arena))
            pieces = thread_pieces(around, arena, heaps)
    except (InvalidHeap, MemoryGap) as error:
        problems = (str(error),)
    return ArenaReading(index, arena, heaps, tuple(pieces), False, False, problems)


def lists_match(walker: Walker, reading: ArenaReading, layout: Layout) -> bool:
    """Do the bins' lists hold exactly the free chunks that the walk found?

    Every list is circular through its bin. So over all its members, bins included, the set of fd
    pointers is the set of members itself, and so is that of bk pointers: compared by sums of a
    hash."""
    heads = reading.state.bin_heads(layout.state)
    here = walker.hash_sum([address for address, _, _ in heads])
    forward = walker.hash_sum([fd for _, fd, _ in heads])
    backward = walker.hash_sum([bk for _, _, bk in heads])
    for piece in reading.pieces:
        here += piece.tally.bin_node_hash
        forward += piece.tally.bin_fd_hash
        backward += piece.tally.bin_bk_hash
    return here & _MASK64 == forward & _MASK64 == backward & _MASK64


def _changed_chunks(
    memory: Memory,
    subject: Subject,
    tcbs: dict[int, int],
    slots: ThreadSlots,
    addresses: set[int],
    par: ParValues,
    before: Sequence[Tcache],
    marks: Marks,
) -> set[int]:
    """Chunks of the tcaches that changed during the walk, as they were before and as they are now
    (their structs included)."""
    threads = read_threads(memory, subject.threads, tcbs, slots, addresses, par.tcache_count)
    after = {t.tid: t.tcache for t in threads if t.tcache is not None}
    touched: set[int] = set()
    for tcache in before:
        now = after.pop(tcache.tid, None)
        if now is None or now.raw != tcache.raw or now.address != tcache.address:
            touched.add(tcache.chunk)
            touched.update(marks.by_tcache.get(tcache.tid, ()))
            if now is not None:
                touched.add(now.chunk)
                touched.update(head - 16 for head in now.heads if head)
    touched.update(tcache.chunk for tcache in after.values())
    return touched


def _check(
    subject: Subject, reading: ArenaReading, layout: Layout, touched: set[int], frozen: bool
) -> ArenaReading:
    problems = list(reading.problems)
    match = lists_match(subject.walker, reading, layout)
    tallies = [piece.tally for piece in reading.pieces]
    changed = not frozen and (
        _header_changed(subject.memory, reading.state, layout) or _touches(reading.pieces, touched)
    )
    if changed:
        problems.append("it changed while it was read")
    if not match:
        problems.append("its free lists and its chunks tell different things")
    if any(t.damage_count or t.stop_reason in (STOP_DAMAGE, STOP_BROKEN_TOP) for t in tallies):
        problems.append("the chain of chunks is interrupted")
    if any(t.cut_at_top_count for t in tallies):
        problems.append("an allocation from top was under way")
    if any(t.missed_mark_count for t in tallies):
        problems.append("a cached chunk is not on the chain of chunks")
    if any(t.stop_reason == STOP_DEADLINE for t in tallies):
        problems.append("the deadline came before its end")
    return dataclasses.replace(
        reading, lists_match=match, changed=changed, problems=tuple(problems)
    )


def _header_changed(memory: Memory, before: ArenaState, layout: Layout) -> bool:
    try:
        return read_state(memory, before.address, layout.state).raw != before.raw
    except MemoryGap:
        return True


def _touches(pieces: Sequence[Piece], chunks: set[int]) -> bool:
    return any(piece.start <= chunk < piece.end for chunk in chunks for piece in pieces)


def _better(new: ArenaReading, old: ArenaReading) -> bool:
    def badness(reading: ArenaReading) -> tuple[bool, int]:
        unread = sum(piece.tally.unread_bytes for piece in reading.pieces)
        gap = abs(reading.state.system_bytes - reading.accounted_bytes)
        return bool(reading.problems), unread + gap

    return badness(new) <= badness(old)


def _without(
    spans: Sequence[tuple[int, int]], owned: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """The spans less what arenas own."""
    left: list[tuple[int, int]] = []
    taken = sorted(owned)
    for start, end in spans:
        for low, high in taken:
            if high <= start or low >= end:
                continue
            if low > start:
                left.append((start, low))
            start = max(start, high)
        if start < end:
            left.append((start, end))
    return left
