"""When a look at a process must be a walk, and how samples become series.

A walk of a large heap costs half a second of CPU time; a glance (the kernel's counters, the headers
of the arenas) costs a millisecond. The rule:

1. The first sample walks.
2. After a walk that took C seconds of CPU time none is made for C / WALK_SHARE seconds: whatever
   the process does, all walks but the last have cost no more than that share of one core.
3. After that, a sample walks when there is a sign that the ledger is another since the last walk:
   its glance has moved by MOVED_RATIO of RSS (at least MOVED_BYTES), or an arena has been used,
   which its header shows where no size does: half of all chunks can be freed without one.
4. Without a sign every CALM_SAMPLES-th sample walks: thread caches are in no header.

Rule: what is unknown in one of two glances tells nothing, so it has not moved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from allocscope.immutable import immutable
from allocscope.model.ledger import Explanation, LedgerKey
from allocscope.model.situation import Situation
from allocscope.model.watch import Glance, MallocGlance, Sample, Walk, WalkArena, WalkRow

WALK_SHARE = 0.01
MOVED_RATIO = 0.01
MOVED_BYTES = 1 << 20
CALM_SAMPLES = 12


@immutable
class Walked:
    """A walk, with what the rule must know of it: the glance just before it, when it was over
    (CLOCK_MONOTONIC, ns) and the CPU time it took."""

    walk: Walk
    glance: Glance
    ended_ns: int
    cpu_ns: int


def walk_is_due(last: Walked | None, glance: Glance, number: int, now_ns: int) -> bool:
    """The rule above, for sample ``number`` with this glance."""
    if last is None:
        return True
    if now_ns - last.ended_ns < last.cpu_ns / WALK_SHARE:
        return False
    enough = max(MOVED_BYTES, int(MOVED_RATIO * last.walk.rss_bytes))
    return (
        moved_bytes(last.glance, glance) >= enough
        or used(last.glance, glance)
        or number - last.walk.sample >= CALM_SAMPLES
    )


def used(before: Glance, now: Glance) -> bool:
    """Has an arena been used between two glances?"""
    if before.malloc is None or now.malloc is None:
        return False
    return _headers(before.malloc) != _headers(now.malloc)


def _headers(malloc: MallocGlance) -> dict[int, int]:
    return {arena.address: arena.header_crc32 for arena in malloc.arenas}


def moved_bytes(before: Glance, now: Glance) -> int:
    """The largest distance between two glances: in RSS, in swap, in what malloc has in mappings,
    or in what the arenas obtained or have as top, summed over the arenas."""
    found = [
        _distance(before.rss_bytes, now.rss_bytes),
        _distance(before.swap_bytes, now.swap_bytes),
    ]
    if before.malloc is not None and now.malloc is not None:
        found += _of_malloc(before.malloc, now.malloc)
    return max(found)


def _of_malloc(before: MallocGlance, now: MallocGlance) -> Iterator[int]:
    yield abs(now.mmapped_bytes - before.mmapped_bytes)
    old = {arena.address: arena for arena in before.arenas}
    system = top = 0
    for arena in now.arenas:
        known = old.pop(arena.address, None)
        if known is None:
            system += arena.system_bytes
            continue
        system += abs(arena.system_bytes - known.system_bytes)
        top += _distance(known.top_bytes, arena.top_bytes)
    yield system + sum(arena.system_bytes for arena in old.values())
    yield top


def _distance(before: int | None, now: int | None) -> int:
    return 0 if before is None or now is None else abs(now - before)


def refaults_per_s(before: Glance, now: Glance, seconds: float) -> float | None:
    """Pages per second; None where one of the two is unknown, or where the group is another by now,
    which shows where the count is less."""
    if before.refault_count is None or now.refault_count is None or seconds <= 0:
        return None
    came = now.refault_count - before.refault_count
    return came / seconds if came >= 0 else None


def walk(number: int, found: Situation, explained: Explanation) -> Walk:
    """What is kept of a walk. ``number``: the sample that made it."""
    trimmable = {arena.index: arena.figures.trimmable_bytes for arena in found.heap.arenas}
    addresses = {arena.index: arena.address for arena in found.heap.arenas}
    return Walk(
        sample=number,
        rss_bytes=found.ledger.rss_bytes,
        ledger=tuple(
            WalkRow(row.key, row.label, row.resident_bytes, row.lazyfree_bytes, row.swapped_bytes)
            for row in found.ledger.rows
        ),
        drift_bytes=found.ledger.drift_bytes,
        arenas=tuple(
            WalkArena(
                index=arena.index,
                address=addresses[arena.index],
                resident_bytes=arena.resident_bytes,
                live_bytes=arena.live_bytes,
                free_bytes=arena.free_bytes,
                trimmable_bytes=trimmable[arena.index],
            )
            for arena in found.residence
        ),
        cause=explained.causes[0].key,
        verdict=explained.verdict,
    )


# ---- series ----


@immutable
class Point:
    """What series are made of: the figures of one sample. ``rows``: resident bytes by row of the
    ledger, as last walked; ``arenas``: what each arena has obtained, by its address, None where
    that is unknown."""

    rss_bytes: int | None
    rows: Mapping[LedgerKey, int]
    arenas: Mapping[int, int] | None


Figure = Callable[[Point], int | None]


def point(sample: Sample) -> Point:
    """A sample as a point of series."""
    malloc = sample.glance.malloc
    arenas = None if malloc is None else {a.address: a.system_bytes for a in malloc.arenas}
    return Point(
        rss_bytes=sample.glance.rss_bytes,
        rows={row.key: row.resident_bytes for row in sample.walk.ledger},
        arenas=arenas,
    )


def rss(at: Point) -> int | None:
    """The figure of RSS."""
    return at.rss_bytes


def row(key: LedgerKey) -> Figure:
    """The figure of a row of the ledger."""
    return lambda at: at.rows[key]


def system(address: int) -> Figure:
    """The figure of what an arena has obtained: 0 before it was made."""
    return lambda at: None if at.arenas is None else at.arenas.get(address, 0)


class Series:
    """The last points of a watching, oldest first, and the very first one."""

    def __init__(self, most: int) -> None:
        self._points: deque[Point] = deque(maxlen=most)
        self._first: Point | None = None

    def add(self, newest: Point) -> None:
        """The newest; the oldest of more than ``most`` goes."""
        self._first = self._first or newest
        self._points.append(newest)

    def of(self, figure: Figure, most: int | None = None) -> tuple[int | None, ...]:
        """One figure of the last ``most`` points, None where it is unknown."""
        left_out = 0 if most is None else max(0, len(self._points) - most)
        return tuple(figure(at) for at in islice(self._points, left_out, None))

    def change(self, figure: Figure) -> int | None:
        """How far the figure has come since the first point; None where either is unknown."""
        if self._first is None:
            return None
        first, now = figure(self._first), figure(self._points[-1])
        return None if first is None or now is None else now - first
