"""How contended the arenas of a live process are: looks at their lock words, a few milliseconds of
them. Nothing is stopped or changed."""

from __future__ import annotations

import time

from allocscope.glibc.contention import contention
from allocscope.glibc.reading import HeapReading
from allocscope.model.situation import Contention
from allocscope.proc.memory import ProcessMemory

LOOKS_APART_S = 1e-4


def looks_at_locks(memory: ProcessMemory, reading: HeapReading) -> Contention:
    """``memory``: of the process itself, not of a copy, which stands still."""
    arenas = [item.state.address for item in reading.arenas]
    return contention(memory, arenas, lambda: time.sleep(LOOKS_APART_S))
