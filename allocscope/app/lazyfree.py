"""``lazyfree``: the pages that a process gave back with MADV_FREE and that are still in its RSS.

Strategy: smaps says how many pages each mapping has; where frames can be seen, their flags say
which. A page that was written to again still carries the flags, so what is more than smaps counts
was rewritten. Rules: nothing is stopped or changed; smaps is read whatever the size, because
nothing else tells (about 10 ms per resident GiB, during which the target cannot map memory).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from allocscope.app.target import find_malloc, look
from allocscope.errors import AllocscopeError
from allocscope.glibc.states import read_heaps, read_ring
from allocscope.immutable import immutable
from allocscope.model.lazyfree import LazyfreeData, LazyMapping, LazyOwner, Owner
from allocscope.model.process import Mapping, Process, SmapsEntry
from allocscope.model.report import Caveat, Method, Report
from allocscope.owners import allocators as owners
from allocscope.proc import allocators, procfs
from allocscope.proc.memory import ProcessMemory
from allocscope.proc.pages import FrameFlags

NOT_EXACT = Caveat(
    "pages-not-seen",
    "Page frames cannot be seen (CAP_SYS_ADMIN in the initial user namespace): the figures are "
    "smaps' own per mapping, and pages written to again are not recognised.",
)
CHANGED = Caveat(
    "changed-meanwhile",
    "Some mappings had fewer such pages when their frames were looked at than when smaps was "
    "read: the process goes on, and the figures are those of two moments.",
)


@immutable
class Reading:
    """``changed``: the frames showed fewer such pages than smaps had counted just before."""

    data: LazyfreeData
    changed: bool


def lazyfree(pid: int) -> Report[LazyfreeData]:
    """Looks at ``pid``. Raises NoSuchProcess, PermissionRefused, NoGlibcHeap (a kernel thread)."""
    started = time.monotonic_ns()
    process = procfs.identify(pid)
    with ProcessMemory(pid) as memory:
        reading = read(memory, process)
    procfs.same(process)
    return report(process, reading, started)


def report(
    process: Process, reading: Reading, started_ns: int, source: str = "passive"
) -> Report[LazyfreeData]:
    """The answer around a reading. ``source``: as in Method."""
    caveats = () if reading.data.exact else (NOT_EXACT,)
    consistency = "partial" if reading.changed else "validated"
    return Report(
        process=process,
        libc=None,
        allocator=None,
        method=Method(source, 0, time.monotonic_ns() - started_ns, consistency),
        data=reading.data,
        caveats=(*caveats, CHANGED) if reading.changed else caveats,
    )


def read(memory: ProcessMemory, process: Process) -> Reading:
    """smaps first, then the frames of the mappings that it names."""
    entries = procfs.smaps(process.pid)
    holding = [entry for entry in entries if entry.lazyfree_bytes]
    whose = _Owners(memory, process) if holding else None
    frames = FrameFlags.open_if_allowed()
    with contextlib.closing(frames) if frames else contextlib.nullcontext():
        marked = [_marked_bytes(memory, entry, frames) for entry in holding]
    found = tuple(
        LazyMapping(
            start=entry.mapping.start,
            end=entry.mapping.end,
            path=entry.mapping.path,
            owner=whose.of(entry.mapping) if whose else owners.UNKNOWN,
            resident_bytes=entry.rss_bytes,
            lazyfree_bytes=entry.lazyfree_bytes,
            rewritten_bytes=None if size is None else max(0, size - entry.lazyfree_bytes),
            locked=bool(entry.locked_bytes),
        )
        for entry, size in zip(holding, marked, strict=True)
    )
    rewritten = [mapping.rewritten_bytes or 0 for mapping in found]
    data = LazyfreeData(
        rss_bytes=sum(entry.rss_bytes for entry in entries),
        lazyfree_bytes=sum(mapping.lazyfree_bytes for mapping in found),
        rewritten_bytes=None if frames is None else sum(rewritten),
        exact=frames is not None,
        owners=_by_owner(found),
        mappings=found,
        reclaimed=None,
    )
    pairs = zip(holding, marked, strict=True)
    return Reading(data, any(m is not None and m < entry.lazyfree_bytes for entry, m in pairs))


def _marked_bytes(
    memory: ProcessMemory, entry: SmapsEntry, frames: FrameFlags | None
) -> int | None:
    """Pages whose frames bear the marks; None where frames cannot be seen."""
    if frames is None:
        return None
    batches = frames.lazy_runs(memory, entry.mapping.start, entry.mapping.end)
    return sum(end - start for batch in batches for start, end in batch)


def _by_owner(mappings: Sequence[LazyMapping]) -> tuple[LazyOwner, ...]:
    """The owners, who holds most first."""
    names = dict.fromkeys(mapping.owner.name for mapping in mappings)
    rows = []
    for name in names:
        own = [mapping for mapping in mappings if mapping.owner.name == name]
        resident = sum(mapping.resident_bytes for mapping in own)
        held = sum(mapping.lazyfree_bytes for mapping in own)
        rows.append(LazyOwner(name, len(own), resident, held))
    return tuple(sorted(rows, key=lambda row: -row.lazyfree_bytes))


class _Owners:
    """Whose a mapping is: glibc's, where one of its heaps lies there, or another allocator's."""

    def __init__(self, memory: ProcessMemory, process: Process) -> None:
        self._memory = memory
        try:
            self._heaps = list(_glibc_heaps(memory, process.pid))
        except AllocscopeError:
            self._heaps = []  # no glibc, or none that can be read: nothing is known to be its own
        mappings = procfs.mappings(process.pid)
        mapped = allocators.mapped_allocators(process.pid, mappings)
        self._others = owners.recognisers(memory, mappings, mapped)

    def of(self, mapping: Mapping) -> Owner:
        for start, end, evidence in self._heaps:
            if start < mapping.end and mapping.start < end:
                return Owner("glibc", evidence)
        return owners.owner_of(self._memory, mapping, self._others)


def _glibc_heaps(memory: ProcessMemory, pid: int) -> Iterator[tuple[int, int, str]]:
    """Every heap of every arena: start, end, and why it is one."""
    target = look(pid)
    located, _ = find_malloc(memory, target)
    ring = read_ring(memory, located.main_arena, located.layout.state)
    top, most = ring[0].top, located.layout.heap_max_bytes(located.par.hp_pagesize)
    for start, end in target.brk_spans:
        if ring[0].system_bytes and start <= top < end:
            yield start, end, f"the main arena's top chunk, {top:#x}, lies in it"
    for arena in ring[1:]:
        for heap in read_heaps(memory, arena, most):
            why = f"the heap at {heap.start:#x} of the arena at {arena.address:#x} lies in it"
            yield heap.start, heap.start + heap.size, why
