"""Finding main_arena without a symbol: by what must be true of an initialised arena, wherever its
library put it.

Bin 127 is never used and thus always links to itself; from it each layout predicts where the arena
begins. A candidate counts only if all bins are plausible, the ring of arenas closes, and every
other arena of it lies right behind the header of a heap that names it. A library's data is read
once, a few dozen KiB.
The rules that an arena must keep are in :mod:`allocscope.glibc.invariants`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from allocscope.errors import MemoryGap
from allocscope.glibc.abi import Abi
from allocscope.glibc.invariants import state_faults
from allocscope.glibc.layouts import Layout, StateLayout, rows_of
from allocscope.glibc.par import ParValues, find_par
from allocscope.glibc.protocols import Memory
from allocscope.glibc.states import (
    CHUNK_FLAGS,
    ArenaState,
    InvalidHeap,
    heap_of,
    parse_state,
    read_heap_info,
    read_heaps,
    read_ring,
)
from allocscope.immutable import immutable

PAGE = 4096


@immutable
class Located:
    """A validated malloc: its arenas, ``mp_``, and the rows of the layout table that fit (the first
    is used)."""

    main_arena: int
    layouts: tuple[Layout, ...]
    par: ParValues
    arena_count: int

    @property
    def layout(self) -> Layout:
        return self.layouts[0]


def read_areas(memory: Memory, spans: Iterable[tuple[int, int]]) -> list[tuple[int, bytes]]:
    """The present pages of the spans, neighbours joined: ``(address, bytes)``."""
    areas = []
    for start, end in spans:
        for run_start, run_end in memory.runs(start, end):
            try:
                areas.append((run_start, memory.read(run_start, run_end - run_start)))
            except MemoryGap:
                continue
    return areas


def self_linked(start: int, data: bytes, abi: Abi) -> list[int]:
    """Addresses of words that, with their successor, form an empty bin: both point a chunk's header
    before themselves."""
    words, size = abi.view(data), abi.word_bytes
    base = start - abi.header_bytes
    return [
        start + i * size
        for i in range(len(words) - 1)
        if words[i] == base + i * size and words[i + 1] == words[i]
    ]


def states_of(table: Sequence[Layout]) -> list[StateLayout]:
    """The different ones of a table."""
    return list({row.state.name: row.state for row in table}.values())


def heap_info_size(memory: Memory, arenas: Sequence[ArenaState], heap_max_bytes: int) -> int | None:
    """Size of the heap header as the thread arenas show it; None without any. InvalidHeap when they
    contradict each other."""
    abi = memory.abi
    known = {row.heap_info_bytes for row in rows_of(abi)}
    sizes = set()
    for arena in arenas[1:]:
        start = heap_of(arena.address, heap_max_bytes)
        size = arena.address - start
        if size not in known or read_heap_info(memory, start).arena != arena.address:
            raise InvalidHeap(f"arena {arena.address:#x} does not lie behind a heap header")
        sizes.add(size)
    if len(sizes) > 1:
        raise InvalidHeap("thread arenas lie behind heap headers of different sizes")
    return sizes.pop() if sizes else None


def _heaps_fit(
    memory: Memory, arenas: Sequence[ArenaState], layout: Layout, hp_pagesize: int
) -> bool:
    """Do the thread arenas lie where this row has them?"""
    try:
        size = heap_info_size(memory, arenas, layout.heap_max_bytes(hp_pagesize))
    except (InvalidHeap, MemoryGap):
        return False
    return size in (None, layout.heap_info_bytes)


def _candidates(
    areas: Sequence[tuple[int, bytes]], rows: Sequence[Layout], abi: Abi
) -> Iterable[tuple[StateLayout, ArenaState]]:
    state_layouts = states_of(rows)
    for start, data in areas:
        linked = set(self_linked(start, data, abi))
        last_of_series = sorted(a for a in linked if a + abi.header_bytes not in linked)  # bin 127
        for address in last_of_series:
            for layout in state_layouts:
                offset = address - layout.last_bin - start
                if (
                    offset < 0
                    or offset + layout.size > len(data)
                    or (start + offset) % abi.word_bytes
                ):
                    continue
                arena = parse_state(start + offset, data[offset : offset + layout.size], layout)
                if not any(state_faults(arena, layout)):
                    yield layout, arena


def _untouched(
    areas: Sequence[tuple[int, bytes]], rows: Sequence[Layout], abi: Abi
) -> Iterable[tuple[StateLayout, ArenaState]]:
    """A main_arena that nobody has used yet: all zero but ``next``, which points to the arena
    itself, and one attached thread where such are counted."""
    state_layouts = states_of(rows)
    for start, data in areas:
        words, size = abi.view(data), abi.word_bytes
        for layout in state_layouts:
            for i in range(layout.next // size, len(words)):
                offset = i * size - layout.next
                if words[i] != start + offset or offset + layout.size > len(data):
                    continue
                arena = parse_state(start + offset, data[offset : offset + layout.size], layout)
                unused = not any(arena.raw[: layout.next - 4]) and not arena.max_system_bytes
                if unused and arena.system_bytes == 0 and arena.attached_threads in (None, 1):
                    yield layout, arena


def _fitting(
    memory: Memory,
    areas: Sequence[tuple[int, bytes]],
    heap_spans: Sequence[tuple[int, int]],
    table: Sequence[Layout],
    state: StateLayout,
    main: ArenaState,
) -> tuple[Located, list[ArenaState]] | None:
    """The malloc whose main_arena this candidate is, with its arenas; None when it is none."""
    try:
        arenas = read_ring(memory, main.address, state)
    except (InvalidHeap, MemoryGap):
        return None
    rows = [layout for layout in table if layout.state == state]
    found = find_par(areas, list({row.par.name: row.par for row in rows}.values()), heap_spans)
    pars = {par.layout.name: par for par in found}
    fitting = tuple(
        row
        for row in rows
        if row.par.name in pars and _heaps_fit(memory, arenas, row, pars[row.par.name].hp_pagesize)
    )
    if not fitting:
        return None
    return Located(main.address, fitting, pars[fitting[0].par.name], len(arenas)), arenas


def _agreeing(memory: Memory, located: Located, arenas: Sequence[ArenaState]) -> int:
    """How many arenas add up."""
    return sum(_adds_up(memory, arena, arena is arenas[0], located) for arena in arenas)


def _adds_up(memory: Memory, arena: ArenaState, is_main: bool, located: Located) -> bool:
    """Is ``system_mem`` what the arena's heaps, or sbrk_base and top, say? In a process that runs
    it may not be for an instant."""
    par = located.par
    try:
        if not is_main:
            heaps = read_heaps(memory, arena, located.layout.heap_max_bytes(par.hp_pagesize))
            return arena.system_bytes == sum(heap.size for heap in heaps)
        if abs(arena.top - arena.address) < PAGE:  # no memory yet: top is a bin of its own
            return arena.system_bytes == 0
        top_size = memory.abi.word(
            memory.read(arena.top, memory.abi.header_bytes), memory.abi.word_bytes
        )
        top_size &= ~CHUNK_FLAGS
    except (InvalidHeap, MemoryGap):
        return False
    if arena.noncontiguous or not par.sbrk_base:
        return arena.system_bytes >= max(top_size, PAGE)
    return par.sbrk_base + arena.system_bytes == arena.top + top_size


def locate(
    memory: Memory,
    data_spans: Sequence[tuple[int, int]],
    heap_spans: Sequence[tuple[int, int]],
    table: Sequence[Layout] | None = None,
) -> Located | None:
    """The malloc whose data lies in ``data_spans`` (writable memory of one library or program), or
    None.

    ``heap_spans``: where the main heap may begin (the [heap] mapping). The table's rows that
    contradict the memory are dropped; those left differ only in what this process does not show.
    Where two layouts find an arena in the same place (they have the same bins), the one under which
    more arenas add up is taken."""
    areas = read_areas(memory, data_spans)
    abi = memory.abi
    rows = rows_of(abi) if table is None else table
    for candidates in (_candidates(areas, rows, abi), _untouched(areas, rows, abi)):
        for _, group in itertools.groupby(candidates, key=lambda item: item[1].address):
            fits = [_fitting(memory, areas, heap_spans, rows, *candidate) for candidate in group]
            found = [fit for fit in fits if fit is not None]
            if len(found) > 1:
                return max(found, key=lambda fit: _agreeing(memory, *fit))[0]
            if found:
                return found[0][0]
    return None
