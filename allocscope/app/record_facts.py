"""What a recording holds so that its process can be explained later: whose the memory beside
malloc's is, which of its pages are there, and what the kernel says of the process.

Strategy: the recognisers look for structures in memory that a recording does not hold, so they run
now, and their claims are recorded; malloc's own are made again from the recorded heap. Rule: none
of what is kept is memory: it is addresses, sizes, names of mappings and counters.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from allocscope.app.heap import HeapAnswer
from allocscope.app.ownership import beside, claims_beside
from allocscope.app.target import Target
from allocscope.errors import MissingPart
from allocscope.model.owners import Claim
from allocscope.model.process import Mapping, Process, SmapsEntry, SmapsRollup
from allocscope.model.recording import KernelFacts, Ownership
from allocscope.native.memory import NativeMemory
from allocscope.owners.heap import heap_claims
from allocscope.proc import cgroups, mounts, procfs
from allocscope.proc.cached import cached_files
from allocscope.proc.cgroup_memory import cgroup_memory
from allocscope.proc.outside import outside_rss
from allocscope.proc.swaps import swapping

Span = tuple[int, int]


def ownership(pid: int, memory: NativeMemory, target: Target, answer: HeapAnswer) -> Ownership:
    """Who claims what beside malloc. ``memory`` and ``target``: of the process, or of its frozen
    copy; ``pid``: the process. Raises NoSuchProcess, PermissionRefused."""
    heaps = list(heap_claims(answer.reading))
    known = beside(target, target.mappings)
    claims = claims_beside(known, memory, target, heaps, target.mappings)
    return Ownership(tuple(claims), tuple(sorted(mounts.tmpfs_devices(pid))))


def page_states(
    memory: NativeMemory, target: Target, owned: Ownership, others: Iterable[Span] = ()
) -> bytes:
    """Of all memory that a heap can lie in, of the data of programs and libraries, of every mapping
    that somebody claims a part of, and of ``others``, which are no part of those."""
    spans = {*target.anonymous_spans, *others}
    spans.update((m.start, m.end) for m in target.mappings if m.writable and m.private)
    spans.update(_claimed(target.mappings, owned.claims))
    return b"".join(memory.page_states(start, end) for start, end in sorted(spans))


def _claimed(mappings: Sequence[Mapping], claims: Iterable[Claim]) -> Iterator[Span]:
    starts = [mapping.start for mapping in mappings]
    for claim in claims:
        index = max(bisect_right(starts, claim.start) - 1, 0)
        while index < len(mappings) and starts[index] < claim.end:
            yield mappings[index].start, mappings[index].end
            index += 1


def kernel_facts(process: Process, smaps: tuple[SmapsEntry, ...] | None) -> KernelFacts:
    """``smaps``: None where it was not read; then smaps_rollup, which costs the same, is not read
    either. Raises NoSuchProcess, PermissionRefused."""
    pid, status = process.pid, procfs.status(process.pid)
    rollup: SmapsRollup | None = None
    cached = cached_files(pid, smaps or (), mounts.tmpfs_devices(pid))
    found = outside_rss(pid, status, process.thread_count, smaps or (), cached)
    outside = found.facts
    if smaps is None:
        outside = tuple(fact for fact in outside if fact.key != "tmpfs-held")
    else:
        with contextlib.suppress(MissingPart):
            rollup = procfs.smaps_rollup(pid)
    return KernelFacts(
        status=status,
        rollup=rollup,
        limits=cgroups.limits(pid),
        pressure=cgroups.pressure(pid),
        outside=outside,
        descriptors=found.descriptors,
        cached=cached,
        swapping=swapping(),
        cgroup=cgroup_memory(pid),
    )
