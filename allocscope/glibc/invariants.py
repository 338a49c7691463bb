"""What must be true of an initialised arena and of ``mp_``, one named rule after the other.

The search for malloc asks only whether all hold; the layout report tells which did not, and at
which word. Source: malloc/malloc.c, ``struct malloc_state``, ``struct malloc_par``.

Rule: a thread may stand in the middle of malloc, for ever in a stopped process or a frozen copy.
So nothing is asked of an arena that an operation under way breaks.
"""

from __future__ import annotations

from collections.abc import Iterator

from allocscope.glibc.layouts import BIN_COUNT, StateLayout
from allocscope.glibc.states import ArenaState
from allocscope.immutable import immutable

MOST_TORN = 2
"""Bins that one operation under way may have half linked: the one that a chunk leaves, the one that
it enters."""
USER_END = 1 << 47
MOST_THREADS = 1 << 24

STATE_RULES = (
    "lock word",
    "flags",
    "top",
    "system_mem",
    "max_system_mem",
    "attached_threads",
    "bins",
)


@immutable
class Fault:
    """A rule that does not hold, and where: an offset in the structure."""

    rule: str
    at: int


def state_faults(arena: ArenaState, layout: StateLayout) -> Iterator[Fault]:
    """The rules of STATE_RULES that an arena breaks, in that order."""
    if arena.lock_word not in (0, 1, 2):
        yield Fault("lock word", 0)
    if not 0 <= arena.flags < 8:
        yield Fault("flags", 4)
    none_yet = arena.address + layout.top
    if arena.top == 0 or (not layout.abi.is_chunk(arena.top) and arena.top != none_yet):
        yield Fault("top", layout.top)
    if arena.system_bytes >= USER_END:
        yield Fault("system_mem", layout.system_mem)
    if arena.max_system_bytes >= USER_END:
        yield Fault("max_system_mem", layout.max_system_mem)
    if layout.attached_threads is not None and (arena.attached_threads or 0) >= MOST_THREADS:
        yield Fault("attached_threads", layout.attached_threads)
    yield from _bin_faults(arena, layout)


def _bin_faults(arena: ArenaState, layout: StateLayout) -> Iterator[Fault]:
    abi = layout.abi
    header = abi.header_bytes
    base = arena.address + layout.bins - header
    torn = 0
    for i in range(BIN_COUNT):
        here = base + header * i
        # an empty bin's ends are no chunks, and in layout D not aligned like one
        ends = [end for end in arena.bins[2 * i : 2 * i + 2] if end != here]
        torn += len(ends) == 1
        last = i == BIN_COUNT - 1
        if (
            any(end == 0 or not abi.is_chunk(end) for end in ends)
            or torn > MOST_TORN
            or (last and ends)
        ):
            yield Fault("bins", layout.bins + header * i)
            return
