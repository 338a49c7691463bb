"""``lazyfree``: the pages that a process gave back with MADV_FREE and that are still in its RSS.

Strategy: smaps says how many pages each mapping has; where frames can be seen, their flags say
which. A page that was written to again still carries the flags, so what is more than smaps counts
was rewritten. Whose a mapping is, the recognisers of `map` and `explain` say (app.ownership).
Rules: nothing is stopped or changed; smaps is read whatever the size, because
nothing else tells (about 10 ms per resident GiB, during which the target cannot map memory).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from allocscope.app import ownership
from allocscope.app.target import Target, find_malloc, look
from allocscope.errors import AllocscopeError
from allocscope.glibc.abi import of_machine
from allocscope.glibc.locate import Located
from allocscope.glibc.mmapped import find_mmapped
from allocscope.glibc.states import read_heaps, read_ring
from allocscope.immutable import immutable
from allocscope.model.lazyfree import LazyfreeData, LazyMapping, LazyOwner, Owner
from allocscope.model.libc import X86_64
from allocscope.model.owners import Claim
from allocscope.model.process import Mapping, Process, SmapsEntry
from allocscope.model.recording import LazyPages
from allocscope.model.report import Caveat, Method, Report
from allocscope.owners.allocators import UNKNOWN, name_of
from allocscope.owners.divide import disjoint
from allocscope.proc import procfs
from allocscope.proc.memory import PAGE_BYTES, ProcessMemory
from allocscope.proc.pages import FrameFlags
from allocscope.proc.spared import SparingMemory

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
    consistency = "partial" if reading.changed else "validated"
    return Report(
        process=process,
        libc=None,
        allocator=None,
        method=Method(source, 0, time.monotonic_ns() - started_ns, consistency),
        data=reading.data,
        caveats=caveats_of(reading),
    )


def caveats_of(reading: Reading) -> tuple[Caveat, ...]:
    """What the reader of these figures must know."""
    seen = () if reading.data.exact else (NOT_EXACT,)
    return (*seen, CHANGED) if reading.changed else seen


def read(memory: ProcessMemory, process: Process) -> Reading:
    """smaps first, then the frames of the mappings that it names."""
    entries = procfs.smaps(process.pid)
    return reading_of(lazy_pages(memory, process.pid, entries), entries)


def lazy_pages(memory: ProcessMemory, pid: int, entries: Sequence[SmapsEntry]) -> LazyPages:
    """The same where smaps has just been read: ``entries``."""
    holding = [entry for entry in entries if entry.lazyfree_bytes]
    frames = FrameFlags.open_if_allowed()
    with contextlib.closing(frames) if frames else contextlib.nullcontext():
        marked = [_marked(memory, e.mapping.start, e.mapping.end, frames) for e in holding]
        claims = _claims(memory, pid, entries, holding, frames) if holding else []

        def held(start: int, end: int) -> int:
            size = _marked(memory, start, end, frames)
            return end - start if size is None else size

        whose = [owner_of(entry.mapping, claims, held) for entry in holding]
    found = tuple(
        LazyMapping(
            start=entry.mapping.start,
            end=entry.mapping.end,
            path=entry.mapping.path,
            owner=owner,
            resident_bytes=entry.rss_bytes,
            lazyfree_bytes=entry.lazyfree_bytes,
            rewritten_bytes=None if size is None else max(0, size - entry.lazyfree_bytes),
            locked=bool(entry.locked_bytes),
        )
        for entry, size, owner in zip(holding, marked, whose, strict=True)
    )
    pairs = zip(holding, marked, strict=True)
    changed = any(m is not None and m < entry.lazyfree_bytes for entry, m in pairs)
    return LazyPages(frames is not None, changed, found)


def reading_of(found: LazyPages, entries: Sequence[SmapsEntry]) -> Reading:
    """What the pages of all mappings come to. ``entries``: smaps, from which they were found."""
    rewritten = sum(mapping.rewritten_bytes or 0 for mapping in found.mappings)
    data = LazyfreeData(
        rss_bytes=sum(entry.rss_bytes for entry in entries),
        lazyfree_bytes=sum(mapping.lazyfree_bytes for mapping in found.mappings),
        rewritten_bytes=rewritten if found.exact else None,
        exact=found.exact,
        owners=_by_owner(found.mappings),
        mappings=found.mappings,
        reclaimed=None,
    )
    return Reading(data, found.changed)


def _marked(memory: ProcessMemory, start: int, end: int, frames: FrameFlags | None) -> int | None:
    """Bytes of pages whose frames bear the marks; None where frames cannot be seen."""
    if frames is None:
        return None
    batches = frames.lazy_runs(memory, start, end)
    return sum(high - low for batch in batches for low, high in batch)


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


def owner_of(mapping: Mapping, claims: Sequence[Claim], held: Callable[[int, int], int]) -> Owner:
    """Who has most of the mapping's marked pages. ``held``: how much such memory lies in
    ``[start, end)``; all of it, where frames cannot be seen."""
    name = name_of(mapping)
    inside = [c for c in claims if c.start < mapping.end and mapping.start < c.end]
    if name != UNKNOWN or not inside:
        return name
    first = inside[0]
    if len(inside) == 1 and first.start <= mapping.start and mapping.end <= first.end:
        return Owner(first.owner, first.evidence)
    left = held(mapping.start, mapping.end)
    sizes: dict[str, int] = {}
    for claim in inside:
        start, end = max(claim.start, mapping.start), min(claim.end, mapping.end)
        its = held(start // PAGE_BYTES * PAGE_BYTES, end)
        sizes[claim.owner] = sizes.get(claim.owner, 0) + its
        left -= its
    most = max(sizes, key=lambda owner: sizes[owner])
    if sizes[most] <= left:
        return UNKNOWN
    return next(Owner(most, claim.evidence) for claim in inside if claim.owner == most)


def _claims(
    memory: ProcessMemory,
    pid: int,
    entries: Sequence[SmapsEntry],
    holding: Sequence[SmapsEntry],
    frames: FrameFlags | None,
) -> list[Claim]:
    """Who claims what of the mappings that hold such pages, ascending. The marked pages themselves
    are not read."""
    target = look(pid, without_glibc=True)
    mappings = [entry.mapping for entry in entries]
    wanted = [entry.mapping for entry in holding]
    marked = (
        run
        for mapping in wanted
        for batch in (frames.lazy_runs(memory, mapping.start, mapping.end) if frames else ())
        for run in batch
    )
    with SparingMemory(pid, marked) as sparing:
        try:
            heaps = list(_glibc_claims(sparing, target))
        except AllocscopeError:
            heaps = []  # no glibc, or none that can be read: nothing is known to be its own
            machine = target.images[0].machine if target.images else X86_64
            sparing.abi = of_machine(machine, PAGE_BYTES) or sparing.abi
        known = ownership.beside(target, mappings)
        others = ownership.claims_beside(known, sparing, target, heaps, mappings, wanted)
        return disjoint([*heaps, *others])


def _glibc_claims(memory: ProcessMemory, target: Target) -> Iterator[Claim]:
    """What glibc's malloc holds: every heap of every arena, by the arenas' own words, and the
    mappings of large chunks. Chunks in heaps are not looked at."""
    located, _ = find_malloc(memory, target)
    heaps = list(_heaps(memory, target, located))
    yield from heaps
    for start, end in find_mmapped(
        memory,
        ownership.unclaimed(target.anonymous_spans, heaps),
        located.layout.mmap_size_is_usable,
        located.par.n_mmaps,
        located.par.mmapped_mem,
    ):
        why = f"the header of a large chunk, whose size is that of the mapping at {start:#x}"
        yield Claim(start, end, "glibc-mmapped", "glibc", why)


def _heaps(memory: ProcessMemory, target: Target, located: Located) -> Iterator[Claim]:
    ring = read_ring(memory, located.main_arena, located.layout.state)
    top, most = ring[0].top, located.layout.heap_max_bytes(located.par.hp_pagesize)
    for start, end in target.brk_spans:
        if ring[0].system_bytes and start <= top < end:
            why = f"the main arena's top chunk, {top:#x}, lies in it"
            yield Claim(start, end, "glibc-main-heap", "glibc", why)
    for arena in ring[1:]:
        for heap in read_heaps(memory, arena, most):
            why = f"the heap at {heap.start:#x} of the arena at {arena.address:#x} lies in it"
            end = heap.start + heap.size
            yield Claim(heap.start, end, "glibc-thread-heap", "glibc", why)
