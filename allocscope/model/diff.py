"""What changed between two moments of a process (or between two processes)."""

from __future__ import annotations

from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX


@immutable
class Side:
    """One of the two. ``file`` and ``sample`` are None for a running process, ``sample`` for a core
    too; ``captured_at_s``: seconds since 1970, None for a core, which does not tell."""

    file: str | None
    sample: int | None
    source: str
    consistency: str
    captured_at_s: float | None
    pid: int
    start_ticks: int | None
    comm: str


@immutable
class Change:
    """A figure on both sides; ``change`` is after less before."""

    before: int
    after: int
    change: int


@immutable
class Growth:
    """How the figures of an arena, or of all, changed; the names are those of ``arenas``. What a
    core does not tell is None."""

    system_bytes: Change
    live_bytes: Change
    live_count: Change
    resident_bytes: Change
    free_resident_bytes: Change
    trimmable_bytes: Change
    pinned_bytes: Change
    swapped_bytes: Change | None


@immutable
class ArenaGrowth:
    """One arena; an index is None on the side that has no such arena. Arenas are matched by
    address, of different processes by index."""

    address: int = field(metadata=HEX)
    index_before: int | None
    index_after: int | None
    growth: Growth


@immutable
class ClassGrowth:
    """Chunks of ``min_bytes <= size <= max_bytes`` in all arenas; free ones lie in tcaches,
    fastbins and bins."""

    min_bytes: int
    max_bytes: int
    live_count: Change
    live_bytes: Change
    free_count: Change
    free_bytes: Change


@immutable
class MappingGrowth:
    """Resident bytes of a group of mappings."""

    group: str
    resident_bytes: Change


@immutable
class DiffData:
    """The answer of ``diff``. ``growth`` is what mostly grew: live (a leak, if it goes on),
    retention (free bytes that stay resident), both, elsewhere (outside of glibc's heap) or none.

    ``live_bytes`` and ``free_resident_bytes`` decide it: those of all arenas, with live chunks
    that have mappings of their own. What is below ``noise_bytes`` counts as no growth.
    Lists stand by falling change; what did not change is left out. With a core on a side RSS and
    the time between the two are None."""

    before: Side
    after: Side
    same_process: bool
    interval_s: float | None
    growth: str
    verdict: str
    noise_bytes: int
    rss_bytes: Change | None
    live_bytes: Change
    free_resident_bytes: Change
    totals: Growth
    mmapped_count: Change
    mmapped_bytes: Change
    mmapped_resident_bytes: Change
    arenas: tuple[ArenaGrowth, ...]
    size_classes: tuple[ClassGrowth, ...]
    mappings: tuple[MappingGrowth, ...]
