"""``map``: every mapping of a process by its owner. It only reads, also where there is no glibc."""

from __future__ import annotations

import time

from allocscope.account.mapview import map_data
from allocscope.app import heap
from allocscope.app.arenas import allocator_of
from allocscope.app.ownership import caveats as owner_caveats
from allocscope.app.ownership import holdings
from allocscope.app.target import Target, libc_of, look
from allocscope.errors import NoGlibcHeap
from allocscope.glibc.abi import of_machine
from allocscope.model.libc import X86_64, Libc
from allocscope.model.mapview import MapData
from allocscope.model.report import Caveat, Method, Report
from allocscope.native.memory import NativeMemory
from allocscope.proc import libc, procfs
from allocscope.proc.memory import PAGE_BYTES, ProcessMemory


def map_process(pid: int, *, raw: bool, deadline_s: float) -> Report[MapData]:
    """The mappings of ``pid``, row by row; ``raw``: also one by one. Where no glibc malloc can be
    read its heap is nobody's, and a caveat says why.

    Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5, a kernel thread)."""
    started = time.monotonic_ns()
    deadline_ns = started + int(deadline_s * 1e9)
    target = look(pid, without_glibc=True)
    before = procfs.stillness(pid)
    with ProcessMemory(pid) as memory:
        answer, caveats = _heap(memory, target, deadline_ns)
        entries = procfs.smaps(pid)
        reading = None if answer is None else answer.reading
        parts = holdings(pid, memory, target, reading, entries)
        caveats += owner_caveats(memory)
    after = procfs.stillness(pid)
    procfs.same(target.process)
    allocator = None
    if answer is not None:
        allocator, more = allocator_of(pid, target.mappings, answer.image)
        caveats += more
    sound = heap.VALIDATED if answer is None else answer.consistency
    consistency = heap.quiescent_or(sound, before, after)
    rss = sum(entry.rss_bytes for entry in entries)
    return Report(
        process=target.process,
        libc=_libc(target, answer),
        allocator=allocator,
        method=Method("passive", 0, time.monotonic_ns() - started, consistency),
        data=map_data(parts, rss, raw=raw),
        caveats=caveats,
    )


def _heap(
    memory: NativeMemory, target: Target, deadline_ns: int
) -> tuple[heap.HeapAnswer | None, tuple[Caveat, ...]]:
    try:
        libc.require_glibc(target.process, target.images)
        answer = heap.read(memory, target, sort=heap.VALIDATED, deadline_ns=deadline_ns)
    except NoGlibcHeap as error:
        machine = target.images[0].machine if target.images else X86_64
        memory.abi = of_machine(machine, PAGE_BYTES) or memory.abi
        return None, (
            Caveat("no-glibc-heap", f"{error.message}. No heap of glibc malloc is told here."),
        )
    return answer, ()


def _libc(target: Target, answer: heap.HeapAnswer | None) -> Libc | None:
    if answer is not None:
        return answer.libc
    return libc_of(target.images[0], None, None) if target.images else None
