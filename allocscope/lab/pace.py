"""What this machine needs to give pages back and to fault them in again, measured now.

Strategy: the same system call on memory of our own, as often as a few milliseconds allow: pages
given back all at once tell the price of a page, every other one by a call of its own that of a
call. The median of some rounds stands, because anything may come in between.

Rule: this is the kernel's part on an idle address space. What glibc does meanwhile, and the other
CPUs that a busy process makes the kernel interrupt, come on top.
"""

from __future__ import annotations

import contextlib
import mmap
import statistics
import time
from collections.abc import Callable

from allocscope.model.trim import Pace

PAGE = mmap.PAGESIZE
_PAGES = 256
_ROUNDS = 3


def measure(visit_ns: int, merge_ns: int) -> Pace:
    """Nanoseconds for each call, page and fault, beside those of glibc's part, which are not
    measured. Takes some 4 ms and 1 MiB."""
    with mmap.mmap(-1, _PAGES * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        rounds = [_round(memory) for _ in range(_ROUNDS)]
    fault, whole, single = (statistics.median(column) for column in zip(*rounds, strict=True))
    page = whole / _PAGES
    calls = _PAGES // 2
    return Pace(
        call_ns=max(round(single / calls - page), 1),
        page_ns=max(round(page), 1),
        fault_ns=max(round(fault / _PAGES), 1),
        visit_ns=visit_ns,
        merge_ns=merge_ns,
    )


def _round(memory: mmap.mmap) -> tuple[int, int, int]:
    """Nanoseconds to fault all pages in, to release all at once, and every other by itself."""
    touched = bytes(_PAGES)

    def touch() -> None:
        memory[::PAGE] = touched

    def release_every_other() -> None:
        for start in range(0, _PAGES * PAGE, 2 * PAGE):
            memory.madvise(mmap.MADV_DONTNEED, start, PAGE)

    fault = _timed(touch)
    whole = _timed(lambda: memory.madvise(mmap.MADV_DONTNEED))
    touch()
    single = _timed(release_every_other)
    memory.madvise(mmap.MADV_DONTNEED)
    return fault, whole, single


def _timed(action: Callable[[], object]) -> int:
    begun = time.perf_counter_ns()
    action()
    return time.perf_counter_ns() - begun
