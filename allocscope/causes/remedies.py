"""Remedies that several causes share, worded once."""

from __future__ import annotations

from allocscope.model.heap import ArenasData
from allocscope.model.ledger import Remedy
from allocscope.model.situation import Situation


def trim(situation: Situation) -> Remedy:
    """malloc_trim(0), from outside or in the program: it goes over all arenas, whatever the cause.
    The forecast is by the exact rule of the target's glibc, over pages that are resident now."""
    return trim_of(situation.heap)


def trim_of(heap: ArenasData) -> Remedy:
    """The same, where only the heap is known (a recording)."""
    return Remedy(
        key="trim",
        action="malloc_trim(0): in the program, or from outside with `allocscope trim PID --apply`",
        gain_bytes=heap.totals.trimmable_bytes,
        gain_is="forecast",
        cost="arenas are locked while it runs, tens of ms per GiB; pages that are used again fault",
    )


def fewer_arenas(arena_max: int, at_most: str = "") -> Remedy:
    """What fewer arenas give back depends on whether threads are busy at the same time, which one
    look cannot tell: nothing if all are, as the fixture arena-spread shows."""
    depends = f": up to {at_most} if threads are busy in turn, nothing if all are at once"
    return Remedy(
        key="arena-max",
        action=f"try GLIBC_TUNABLES=glibc.malloc.arena_max={arena_max} (or MALLOC_ARENA_MAX="
        f"{arena_max}) at its start{depends if at_most else ''}",
        gain_bytes=None,
        gain_is="unknown",
        cost="threads wait for each other where they allocate at the same time; a restart",
    )


def no_tcache(gain_bytes: int) -> Remedy:
    return Remedy(
        key="tcache-count",
        action="start it with GLIBC_TUNABLES=glibc.malloc.tcache_count=0, or a smaller number",
        gain_bytes=gain_bytes,
        gain_is="forecast",
        cost="every malloc and free takes the arena's lock; a restart",
    )


def smaller_tcache(tcache_count: int, gain_bytes: int) -> Remedy:
    each = "each malloc and free takes" if not tcache_count else "malloc and free more often take"
    return Remedy(
        key="tcache-count",
        action=f"start it with GLIBC_TUNABLES=glibc.malloc.tcache_count={tcache_count}",
        gain_bytes=gain_bytes,
        gain_is="forecast",
        cost=f"{each} the arena's lock; a restart",
    )


def fixed_thresholds(gain_bytes: int | None) -> Remedy:
    return Remedy(
        key="thresholds",
        action="start it with GLIBC_TUNABLES=glibc.malloc.trim_threshold=131072:"
        "glibc.malloc.mmap_threshold=131072 (they stay fixed then)",
        gain_bytes=gain_bytes,
        gain_is="unknown" if gain_bytes is None else "forecast",
        cost="more system calls for large chunks; a restart",
    )


def look_at_pins() -> Remedy:
    return Remedy(
        key="pins",
        action="`allocscope pins PID` names the live chunks that hold these pages; free them, or "
        "allocate what lives long apart from what does not",
        gain_bytes=None,
        gain_is="unknown",
        cost="a change of the program",
    )


def other_malloc() -> Remedy:
    return Remedy(
        key="other-malloc",
        action="try an allocator that keeps sizes apart (jemalloc, mimalloc) with LD_PRELOAD",
        gain_bytes=None,
        gain_is="unknown",
        cost="another allocator has other habits: measure; a restart",
    )


def advice(key: str, action: str, cost: str) -> Remedy:
    """A remedy whose gain nobody can tell from outside."""
    return Remedy(key, action, None, "unknown", cost)
