"""``trim PID --rehearse``: malloc_trim really runs, in a copy of a frozen copy of the process.

The frozen copy is read, and the trim foretold from it; then a copy of that runs the process's own
malloc_trim, with the arena locks opened that somebody held at that instant and with the same memory
mlocked. What went away is counted in that copy's page table. The process itself stands still only
while it is copied.
"""

from __future__ import annotations

import contextlib
import time

from allocscope.account import trim as account
from allocscope.act import symbols
from allocscope.app import heap, mlocked
from allocscope.app.frozen_heap import Frozen, freeze
from allocscope.app.trim import (
    Foretold,
    TrimOptions,
    find,
    judge,
    require_glibc,
    served_by,
)
from allocscope.glibc.pieces import Trim
from allocscope.immutable import replace
from allocscope.model.report import Method, Report
from allocscope.model.trim import Rehearsed, TrimData
from allocscope.proc import procfs
from allocscope.proc.memory import ProcessMemory

MALLOC_TRIM = "malloc_trim"


def rehearse(pid: int, options: TrimOptions, *, max_pause_ns: int) -> Report[TrimData]:
    """The forecast for a frozen copy of ``pid``, and what malloc_trim did in one.

    Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5), Unsafe (7: no snapshot within
    ``max_pause_ns``, or the call did not return in the copy), MissingPart (8)."""
    started = time.monotonic_ns()
    deadline_ns = started + int(options.deadline_s * 1e9)
    target = find(pid)
    allocator, caveats = served_by(target, target.images[0])
    require_glibc(pid, allocator)
    rss = procfs.rss_bytes(pid)
    trim = Trim(options.pad_bytes, mlocked.now(pid))
    with contextlib.ExitStack() as stack:
        taken = freeze(
            stack,
            target,
            for_glibc=True,
            max_pause_ns=max_pause_ns,
            deadline_ns=deadline_ns,
            trim=trim,
        )
        where = symbols.resolve(pid, taken.answer.image, (MALLOC_TRIM,))
        foretold = judge(taken.answer, target, rss, options.pad_bytes)
        rehearsed = _run(taken, foretold, where[MALLOC_TRIM], trim)
    procfs.same(target.process)
    data = replace(
        foretold.data(),
        rehearsed=rehearsed,
        error_bytes=rehearsed.bytes - foretold.forecast.bytes,
    )
    elapsed_ns = time.monotonic_ns() - started
    return Report(
        process=target.process,
        libc=taken.answer.libc,
        allocator=allocator,
        method=Method("snapshot", taken.pause_ns, elapsed_ns, heap.FROZEN),
        data=data,
        caveats=caveats + heap.caveats(taken.answer, foretold.arenas),
    )


def _run(taken: Frozen, foretold: Foretold, function: int, trim: Trim) -> Rehearsed:
    reading = taken.answer.reading
    locks = tuple(arena.state.address for arena in reading.arenas)

    def resident(memory: ProcessMemory) -> list[int]:
        return account.resident(reading, lambda *span: memory.residency(*span).resident_bytes)

    with taken.snapshot.stage(locks, trim.locked) as stage, ProcessMemory(stage.pid) as memory:
        before = resident(memory)
        called = stage.call(function, trim.pad_bytes)
        after = resident(memory)
    rows = account.released(foretold.forecast.per_arena, before, after)
    return Rehearsed(
        bytes=sum(row.released_bytes for row in rows),
        per_arena=rows,
        duration_ns=called.duration_ns,
        pause_ns=taken.pause_ns,
        returned=called.result & 0xFFFFFFFF,
        locks_held=len(stage.locks_held),
    )
