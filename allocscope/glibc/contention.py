"""How contended arenas are: their lock words, looked at again and again.

A low-level lock is 0 when it is free, 1 when it is held, 2 when others (may) wait for it
(nptl/lowlevellock.h); an arena begins with it. A look costs the target nothing, so this is a sample
of what is, not a trace of what happens: a lock that is held for 1 % of the time shows in one look
of a hundred. Looks that follow at once on each other see the same threads at the same work; so
something goes by between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from allocscope.glibc.protocols import Memory
from allocscope.model.situation import Contention

LOOKS = 64
MOST_ARENAS = 256
LOCK_BYTES = 4


def contention(memory: Memory, arenas: Sequence[int], between: Callable[[], None]) -> Contention:
    """``arenas``: their addresses; of very many the first are looked at. ``between``: lets the
    process go on before the next look."""
    sample = list(arenas[:MOST_ARENAS])
    words: list[int] = []
    for _ in range(LOOKS):
        found = memory.read_each(sample, LOCK_BYTES)
        words += [int.from_bytes(word, "little") for word in found if word is not None]
        between()
    return Contention(len(words), sum(w > 0 for w in words), sum(w > 1 for w in words))
