"""Why does each row of the layout table fit a process's memory, or why not: for a glibc that no row
fits, so that a new one can be written.

For every variant of the arena the place is taken that breaks the fewest rules, among all places
that an empty bin, or a link of the ring of arenas, can stand for. Which rows fit is not decided
here: that is asked of :mod:`allocscope.glibc.locate`, as every reading does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from allocscope.errors import MemoryGap
from allocscope.glibc.invariants import STATE_RULES, Fault, state_faults
from allocscope.glibc.layouts import BIN_COUNT, Layout, StateLayout, rows_of
from allocscope.glibc.locate import (
    Located,
    heap_info_size,
    locate,
    read_areas,
    self_linked,
    states_of,
)
from allocscope.glibc.par import DEFAULT_THRESHOLD, find_par, par_faults, parse_par
from allocscope.glibc.protocols import Memory
from allocscope.glibc.reading import fitting_rows, in_spans, tcache_layouts
from allocscope.glibc.states import ArenaState, InvalidHeap, parse_state, read_ring
from allocscope.glibc.threads import ThreadHead, ThreadSlots, find_slots, find_tcbs
from allocscope.glibc.words import Place, classify, described
from allocscope.immutable import immutable
from allocscope.model.layout_report import RowReport, Rule, Words

MOST_BROKEN = 2
"""A place that breaks more rules of an arena is none."""
MOST_DATA_BYTES = 64 << 10
AROUND_BYTES = 256
RING, HEAPS, PAR, TCACHE = "ring of arenas", "thread arenas", "mp_", "tcache"


@immutable
class Scene:
    """What is examined: the library's writable memory (``spans``; ``initialised``: those of them
    that its file filled; ``base``: where it begins), where the main heap may begin, where all heaps
    may lie, threads, names for what is pointed at, and the rows that are tried."""

    memory: Memory
    base: int
    spans: Sequence[tuple[int, int]]
    initialised: Sequence[tuple[int, int]]
    heap_spans: Sequence[tuple[int, int]]
    anonymous_spans: Sequence[tuple[int, int]]
    threads: Sequence[ThreadHead]
    places: Sequence[Place]
    table: Sequence[Layout]


@immutable
class _Candidate:
    arena: ArenaState
    faults: tuple[Fault, ...]


@immutable
class _Seen:
    """What the memory shows, whatever the row."""

    areas: list[tuple[int, bytes]]
    located: Located | None
    slots: ThreadSlots | None
    fitting: tuple[Layout, ...]
    candidates: dict[str, _Candidate]

    @property
    def hp_pagesize(self) -> int:
        return 0 if self.located is None else self.located.par.hp_pagesize


def examine(scene: Scene) -> tuple[tuple[RowReport, ...], tuple[Words, ...]]:
    """Every row of the table held against the memory, and the words that tell what it is like."""
    seen = _look(scene)
    rows = tuple(_row(scene, seen, layout) for layout in scene.table)
    words = _worth_telling(scene, seen, rows)
    return rows, described(words, scene.places, scene.base, scene.memory.abi)


def _look(scene: Scene) -> _Seen:
    memory = scene.memory
    areas = read_areas(memory, scene.spans)
    located = locate(memory, scene.spans, scene.heap_spans, scene.table)
    slots: ThreadSlots | None = None
    fitting: tuple[Layout, ...] = ()
    if located is not None:
        ring = read_ring(memory, located.main_arena, located.layout.state)
        slots = find_slots(
            memory,
            find_tcbs(memory, scene.threads),
            {arena.address for arena in ring},
            in_spans(scene.anonymous_spans, memory.abi.alignment),
            tcache_layouts(located),
            located.par.tcache_count or 0,
        )
        fitting = tuple(fitting_rows(located, slots))
    candidates = {}
    for state in states_of(scene.table):
        best = _best(areas, state, located)
        if best is not None:
            candidates[state.name] = best
    return _Seen(areas, located, slots, fitting, candidates)


# ---- places that look like main_arena ----


def _best(
    areas: Sequence[tuple[int, bytes]], state: StateLayout, located: Located | None
) -> _Candidate | None:
    """The place that breaks the fewest rules of this variant."""
    best: _Candidate | None = None
    for start, data in areas:
        places = set(_by_bins(start, data, state)) | set(_by_ring(start, data, state))
        for address in sorted(places):
            offset = address - start
            if offset < 0 or offset + state.size > len(data) or address % state.abi.word_bytes:
                continue
            arena = parse_state(address, data[offset : offset + state.size], state)
            faults = tuple(state_faults(arena, state))
            here = located is not None and located.main_arena == address
            if here or best is None or len(faults) < len(best.faults):
                best = _Candidate(arena, faults)
            if here:
                return best
    return best if best is not None and len(best.faults) <= MOST_BROKEN else None


def _by_bins(start: int, data: bytes, state: StateLayout) -> Iterator[int]:
    """Where the arena would begin if the last bin of a row of empty ones were bin 127, or 126."""
    linked = set(self_linked(start, data, state.abi))
    for address in linked:
        following = address + state.abi.header_bytes
        if following not in linked:
            yield address - state.last_bin
            yield following - state.last_bin


def _by_ring(start: int, data: bytes, state: StateLayout) -> Iterator[int]:
    """Where it would begin if a word that points to it, or to an arena behind a heap's header, were
    ``next``."""
    abi = state.abi
    headers = {row.heap_info_bytes for row in rows_of(abi)}
    for index, word in enumerate(abi.view(data)):
        address = start + index * abi.word_bytes - state.next
        if word == address or word % abi.heap_max_bytes in headers:
            yield address


# ---- one row ----


def _row(scene: Scene, seen: _Seen, layout: Layout) -> RowReport:
    fits = layout in seen.fitting
    candidate = seen.candidates.get(layout.state.name)
    rules: list[Rule] = []
    if candidate is None:
        rules.append(Rule("main_arena", False, None, "nothing in the library's data looks like it"))
    elif fits:
        rules += [Rule(name, True) for name in (*STATE_RULES, RING, HEAPS)]
    else:
        rules += _state_rules(scene, candidate, layout, seen.hp_pagesize)
    mp, par_rules = _par(scene, seen, layout)
    rules += par_rules
    if seen.located is not None and layout in seen.located.layouts:
        rules.append(_tcache_rule(seen, fits))
    return RowReport(
        layout=layout.name,
        versions=layout.versions,
        fits=fits,
        main_arena=None if candidate is None else candidate.arena.address - scene.base,
        mp=None if mp is None else mp - scene.base,
        rules=tuple(rules),
    )


def _state_rules(
    scene: Scene, candidate: _Candidate, layout: Layout, hp_pagesize: int
) -> Iterator[Rule]:
    broken = {fault.rule: fault.at for fault in candidate.faults}
    state, arena = layout.state, candidate.arena
    for name in STATE_RULES:
        at = broken.get(name)
        if at is None:
            yield Rule(name, True)
        else:
            yield Rule(name, False, at, _word_at(scene, arena.address + at))
    try:
        ring = read_ring(scene.memory, arena.address, state)
    except (InvalidHeap, MemoryGap):
        yield Rule(RING, False, state.next, _word_at(scene, arena.address + state.next))
        return
    yield Rule(RING, True)
    try:
        size = heap_info_size(scene.memory, ring, layout.heap_max_bytes(hp_pagesize))
    except (InvalidHeap, MemoryGap):
        size = -1
    if size in (None, layout.heap_info_bytes):
        yield Rule(HEAPS, True)
    elif size == -1:
        yield Rule(HEAPS, False, None, "arenas that do not lie behind a heap's header")
    else:
        yield Rule(HEAPS, False, None, f"heap headers of {size} bytes")


def _par(scene: Scene, seen: _Seen, layout: Layout) -> tuple[int | None, list[Rule]]:
    """Where ``mp_`` lies, or would if its layout were nearly this one."""
    rivals = {row.par.name: row.par for row in scene.table if row.state == layout.state}
    found = find_par(seen.areas, list(rivals.values()), scene.heap_spans)
    names = {par.layout.name: par.address for par in found}
    if layout.par.name in names:
        return names[layout.par.name], [Rule(PAR, True)]
    if names:
        better = ", ".join(names)
        return None, [Rule(PAR, False, None, f"the same memory fits {better} better")]
    near = _nearly_par(scene, seen.areas, layout)
    if near is None:
        return None, [Rule(PAR, False, None, "nothing in the library's data looks like it")]
    address, members = near
    text = "these members cannot be its: " + ", ".join(members) if members else "not beyond doubt"
    return address, [Rule(PAR, False, None, text)]


def _nearly_par(
    scene: Scene, areas: Iterable[tuple[int, bytes]], layout: Layout
) -> tuple[int, list[str]] | None:
    """The place with the fewest impossible members, among those that begin as ``mp_`` does when
    nobody has set anything."""
    best: tuple[int, list[str]] | None = None
    abi = layout.abi
    size = abi.word_bytes
    for start, data in areas:
        words = abi.view(data)
        for index in range(len(words) - layout.par.size // size):
            first = words[index : index + 5].tolist()
            starting = first[:3].count(DEFAULT_THRESHOLD) + (first[3] == abi.arenas_per_cpu)
            if starting < 3:
                continue
            address = start + index * size
            par = parse_par(address, data, layout.par, index * size)
            members = list(par_faults(par, scene.heap_spans))
            if best is None or len(members) < len(best[1]):
                best = address, members
    return best


def _tcache_rule(seen: _Seen, fits: bool) -> Rule:
    if fits:
        return Rule(TCACHE, True)
    slots = seen.slots
    if slots is None or slots.layout is None:
        return Rule(TCACHE, False, None, "nothing of it to be seen")
    keys = {None: "", True: ", keyed by address", False: ", keyed at random"}[slots.key_is_address]
    return Rule(TCACHE, False, None, f"list heads at {slots.layout.entries:#x}{keys}")


def _word_at(scene: Scene, address: int) -> str:
    """What a word is like, in words."""
    abi = scene.memory.abi
    [data] = scene.memory.read_each([address // abi.word_bytes * abi.word_bytes], abi.word_bytes)
    if data is None:
        return "absent"
    return text_of(classify(abi.word(data), scene.places))


def text_of(word: Words) -> str:
    """A word as people read it."""
    if word.target is not None:
        return f"pointer to {word.target}{'' if word.offset is None else f'+{word.offset:#x}'}"
    return " ".join([word.kind, *map(str, word.numbers)])


# ---- what is told of the data ----


def _worth_telling(scene: Scene, seen: _Seen, rows: Iterable[RowReport]) -> list[tuple[int, bytes]]:
    """Initialised data, unless there is much of it (a static program's), and what is around the
    candidates."""
    wanted = [span for span in scene.initialised if span[1] - span[0] <= MOST_DATA_BYTES]
    word = scene.memory.abi.word_bytes
    arena_bytes = 2 * word * BIN_COUNT + AROUND_BYTES
    for row in rows:
        for at, size in ((row.main_arena, arena_bytes), (row.mp, 0)):
            if at is not None:
                here = scene.base + at
                wanted.append((here - AROUND_BYTES, here + size + AROUND_BYTES))
    told = []
    for start, data in seen.areas:
        for low, high in _joined(wanted):
            first = max(low - start, 0) // word * word
            part = data[first : max(high - start, 0)]
            if part:
                told.append((start + first, part))
    return told


def _joined(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            start, end = joined[-1][0], max(end, joined.pop()[1])
        joined.append((start, end))
    return joined
