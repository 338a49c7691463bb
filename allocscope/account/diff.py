"""What changed between two readings, and what kind of growth that is.

Strategy: the same figures on both sides, subtracted: of all arenas, arena by arena, size class by
size class, and by group of mappings. The verdict weighs two of them. Live bytes are what the
program holds: if they grow on and on, it leaks. Free but resident bytes are what it gave back and
malloc keeps: retention. What is below the noise (NOISE_BYTES or NOISE_SHARE of RSS) is no growth,
and one of the two is the cause alone where it outweighs the other OUTWEIGHS times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from allocscope.immutable import immutable, names_of
from allocscope.model.diff import (
    ArenaGrowth,
    Change,
    ClassGrowth,
    DiffData,
    Growth,
    MappingGrowth,
    Side,
)
from allocscope.model.heap import Arena, ArenasData, Figures, SizeClass
from allocscope.model.process import SmapsEntry

NOISE_BYTES = 64 << 10
NOISE_SHARE = 0.01
OUTWEIGHS = 4
LIVE, RETENTION, BOTH, ELSEWHERE, NONE = "live", "retention", "both", "elsewhere", "none"

ARENAS_GROUP = "glibc: arenas"
MMAPPED_GROUP = "glibc: chunks with mappings of their own"
ANONYMOUS_GROUP = "other anonymous memory"
REST_GROUP = "everything else"


@immutable
class Reading:
    """One side: who, the answer of ``arenas``, and smaps where it was read."""

    side: Side
    data: ArenasData
    smaps: Sequence[SmapsEntry] | None


def diff(before: Reading, after: Reading) -> DiffData:
    """What changed from ``before`` to ``after``."""
    old, new = before.data, after.data
    live = change(_live(old), _live(new))
    free = change(old.totals.free_resident_bytes, new.totals.free_resident_bytes)
    rss = _change(old.rss_bytes, new.rss_bytes)
    noise = max(NOISE_BYTES, int(NOISE_SHARE * max(_resident(old), _resident(new))))
    kind = growth_kind(live.change, free.change, rss.change if rss else 0, noise)
    classes = size_classes(old.size_classes, new.size_classes)
    one, other = before.side, after.side
    same = same_process(before, after)
    return DiffData(
        before=one,
        after=other,
        same_process=same,
        interval_s=_interval_s(one, other),
        growth=kind,
        verdict=_VERDICTS[kind],
        noise_bytes=noise,
        rss_bytes=rss,
        live_bytes=live,
        free_resident_bytes=free,
        totals=growth(old.totals, new.totals),
        mmapped_count=change(old.mmapped.found_count, new.mmapped.found_count),
        mmapped_bytes=change(old.mmapped.found_bytes, new.mmapped.found_bytes),
        mmapped_resident_bytes=change(old.mmapped.resident_bytes, new.mmapped.resident_bytes),
        arenas=arenas(old.arenas, new.arenas, by_address=same),
        size_classes=classes,
        mappings=mappings(before, after),
    )


def same_process(before: Reading, after: Reading) -> bool:
    """By pid, name and start time; a core does not tell when its process started, but two processes
    hardly have their main arena at the same address."""
    one, other = before.side, after.side
    if (one.pid, one.comm) != (other.pid, other.comm):
        return False
    if one.start_ticks is None or other.start_ticks is None:
        return before.data.arenas[0].address == after.data.arenas[0].address
    return one.start_ticks == other.start_ticks


def _interval_s(one: Side, other: Side) -> float | None:
    if one.captured_at_s is None or other.captured_at_s is None:
        return None
    return other.captured_at_s - one.captured_at_s


_VERDICTS = {
    LIVE: "the program holds more: a leak, if it goes on",
    RETENTION: "the program gave memory back, and malloc keeps it resident",
    BOTH: "the program holds more, and malloc keeps more free memory resident",
    ELSEWHERE: "RSS grew outside of glibc's heap",
    NONE: "nothing grew beyond the noise",
}


def growth_kind(live: int, free: int, rss: int, noise: int) -> str:
    """Which kind of growth it is, by the changes in bytes."""
    if live > noise and live >= OUTWEIGHS * free:
        return LIVE
    if free > noise and free >= OUTWEIGHS * live:
        return RETENTION
    if live > noise or free > noise:
        return BOTH if live > 0 and free > 0 else LIVE if live > free else RETENTION
    return ELSEWHERE if rss > noise else NONE


def change(before: int, after: int) -> Change:
    return Change(before, after, after - before)


def _change(before: int | None, after: int | None) -> Change | None:
    return None if before is None or after is None else change(before, after)


def _live(data: ArenasData) -> int:
    return data.totals.live_bytes + data.mmapped.found_bytes


def growth(before: Figures | None, after: Figures | None) -> Growth:
    """None: there was no such arena, and all figures are 0."""

    def of(name: str) -> Change:
        return change(getattr(before, name, 0), getattr(after, name, 0))

    swapped = [0 if figures is None else figures.swapped_bytes for figures in (before, after)]
    names = [name for name in names_of(Growth) if name != "swapped_bytes"]
    return Growth(**{name: of(name) for name in names}, swapped_bytes=_change(*swapped))


def _weight(grown: Growth) -> int:
    changes: list[Change | None] = [getattr(grown, name) for name in names_of(type(grown))]
    return max(abs(figure.change) for figure in changes if figure is not None)


def arenas(
    before: Sequence[Arena], after: Sequence[Arena], *, by_address: bool
) -> tuple[ArenaGrowth, ...]:
    """Every arena of either side that changed. Two processes have no addresses in common: there
    indexes match."""

    def key(arena: Arena) -> int:
        return arena.address if by_address else arena.index

    old, new = {key(a): a for a in before}, {key(a): a for a in after}
    rows = []
    for which in old.keys() | new.keys():
        was, now = old.get(which), new.get(which)
        some = was if now is None else now
        grown = growth(None if was is None else was.figures, None if now is None else now.figures)
        if some is not None and _weight(grown):
            index_before = None if was is None else was.index
            index_after = None if now is None else now.index
            rows.append(ArenaGrowth(some.address, index_before, index_after, grown))
    return tuple(sorted(rows, key=lambda row: (-_weight(row.growth), row.address)))


def size_classes(
    before: Iterable[SizeClass], after: Iterable[SizeClass]
) -> tuple[ClassGrowth, ...]:
    """Every class that changed, that with the most bytes first."""
    old, new = {c.min_bytes: c for c in before}, {c.min_bytes: c for c in after}

    def free(name: str) -> Callable[[SizeClass | None], int]:
        kinds = [f"{kind}_{name}" for kind in ("tcache", "fastbin", "bin")]
        return lambda row: sum(getattr(row, kind, 0) for kind in kinds)

    rows = []
    for low in old.keys() | new.keys():
        was, now = old.get(low), new.get(low)
        some = now or was
        if some is None:
            continue
        row = ClassGrowth(
            min_bytes=low,
            max_bytes=some.max_bytes,
            live_count=change(getattr(was, "live_count", 0), getattr(now, "live_count", 0)),
            live_bytes=change(getattr(was, "live_bytes", 0), getattr(now, "live_bytes", 0)),
            free_count=change(free("count")(was), free("count")(now)),
            free_bytes=change(free("bytes")(was), free("bytes")(now)),
        )
        if row.live_count.change or row.free_count.change or row.live_bytes.change:
            rows.append(row)

    def weight(row: ClassGrowth) -> int:
        return max(abs(row.live_bytes.change), abs(row.free_bytes.change))

    return tuple(sorted(rows, key=lambda row: (-weight(row), row.min_bytes)))


def mappings(before: Reading, after: Reading) -> tuple[MappingGrowth, ...]:
    """Resident bytes by group, where they changed. Without smaps on both sides only glibc's part is
    told apart."""
    fine = before.smaps is not None and after.smaps is not None
    rest = before.data.rss_bytes is not None and after.data.rss_bytes is not None
    old, new = _groups(before, fine, rest), _groups(after, fine, rest)
    rows = [
        MappingGrowth(name, change(old.get(name, 0), new.get(name, 0)))
        for name in old.keys() | new.keys()
        if old.get(name, 0) != new.get(name, 0)
    ]
    return tuple(sorted(rows, key=lambda row: (-abs(row.resident_bytes.change), row.group)))


def _resident(data: ArenasData) -> int:
    """RSS, or what is known of it."""
    if data.rss_bytes is not None:
        return data.rss_bytes
    return data.totals.resident_bytes + data.mmapped.resident_bytes


def _groups(reading: Reading, fine: bool, rest: bool) -> Mapping[str, int]:
    data = reading.data
    arenas, mmapped = data.totals.resident_bytes, data.mmapped.resident_bytes
    groups = {ARENAS_GROUP: arenas, MMAPPED_GROUP: mmapped}
    if not fine:
        if rest:
            groups[REST_GROUP] = max(0, _resident(data) - arenas - mmapped)
        return groups
    anonymous = 0
    for entry in reading.smaps or ():
        mapping = entry.mapping
        if mapping.anonymous and not mapping.path.startswith("[stack"):
            anonymous += entry.rss_bytes
        else:
            groups[mapping.path] = groups.get(mapping.path, 0) + entry.rss_bytes
    groups[ANONYMOUS_GROUP] = max(0, anonymous - arenas - mmapped)
    return groups
