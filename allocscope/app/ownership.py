"""Who owns which memory of a process: all recognisers, in the order in which they are believed.

What was read chunk by chunk comes first (glibc's heaps), then what threads' control blocks say,
then what files say; each later recogniser is shown only the anonymous memory that is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from allocscope.app.target import Target
from allocscope.errors import AllocscopeError
from allocscope.glibc.layouts import WORD
from allocscope.glibc.reading import HeapReading
from allocscope.glibc.threads import find_tcbs
from allocscope.immutable import immutable
from allocscope.model.libc import MappedAllocator
from allocscope.model.owners import Claim, Holding
from allocscope.model.process import AuxVector, Mapping, SmapsEntry
from allocscope.model.report import Caveat
from allocscope.native.memory import NativeMemory
from allocscope.owners import go as owners_go
from allocscope.owners.allocators import allocator_claims, recognisers
from allocscope.owners.divide import disjoint, divide
from allocscope.owners.heap import heap_claims
from allocscope.owners.loader import loader_claims
from allocscope.owners.mapped import files_of
from allocscope.owners.recogniser import data_of, words_of
from allocscope.owners.runtimes import runtime_claims
from allocscope.owners.stacks import ended_stacks, stack_claims, thread_stacks
from allocscope.proc import allocators, go, hotspot, mounts, procfs
from allocscope.proc.mapped import OpenFile, opener
from allocscope.proc.segments import bss_claims

Span = tuple[int, int]


@immutable
class Beside:
    """What recognisers must know of a process beside its memory. ``program``: its path as maps
    prints it; ``allocators``: other than the C library's; ``auxv``: None where nothing tells."""

    main_tid: int
    program: str
    open_file: OpenFile
    allocators: tuple[MappedAllocator, ...]
    auxv: AuxVector | None


def beside(target: Target, mappings: Sequence[Mapping]) -> Beside:
    """Of a running process. Raises NoSuchProcess, PermissionRefused."""
    pid = target.process.pid
    return Beside(
        main_tid=pid,
        program=target.process.exe.replace("\n", "\\012"),
        open_file=opener(pid),
        allocators=allocators.mapped_allocators(pid, tuple(mappings)),
        auxv=_auxv(pid),
    )


def holdings(
    pid: int,
    memory: NativeMemory,
    target: Target,
    reading: HeapReading | None,
    entries: Sequence[SmapsEntry],
) -> tuple[Holding, ...]:
    """Every mapping of ``entries``, divided among its owners. ``reading``: None where no glibc
    malloc could be read."""
    mappings = [entry.mapping for entry in entries]
    heaps = [] if reading is None else list(heap_claims(reading))
    claims = heaps + claims_beside(beside(target, mappings), memory, target, heaps, mappings)
    files = files_of(mappings, mounts.tmpfs_devices(pid))
    return divide(entries, claims, files, memory.residency)


def caveats(memory: NativeMemory) -> tuple[Caveat, ...]:
    """What cannot be told of this process's memory, once its word size is known."""
    if memory.abi.word_bytes == WORD:
        return ()
    text = (
        "this is a 32-bit program: memory of language runtimes (CPython, Ruby, V8, HotSpot), of "
        "other allocators and of the loader is recognised in 64-bit ones only, and is unexplained "
        "here."
    )
    return (Caveat("owners-of-32-bit", text),)


def claims_beside(
    known: Beside,
    memory: NativeMemory,
    target: Target,
    heaps: Sequence[Claim],
    mappings: Sequence[Mapping],
    wanted: Sequence[Mapping] | None = None,
) -> list[Claim]:
    """What all others claim, in the order in which they are believed. ``heaps``: the claims of
    glibc's malloc, which come before them. ``wanted``: of which mappings; all, if not said."""
    wanted = mappings if wanted is None else wanted
    spans = [(m.start, m.end) for m in wanted if m.anonymous and m.writable and m.readable]
    guards = [m.end for m in mappings if m.anonymous and not m.readable and not m.writable]
    claims = list(heaps)
    tcbs = find_tcbs(memory, target.threads)
    claims += stack_claims(thread_stacks(memory, tcbs))
    claims += stack_claims(ended_stacks(memory, unclaimed(spans, claims), guards))
    claims += bss_claims(mappings, known.open_file)
    left = unclaimed(spans, claims)
    claims += loader_claims(memory, left, tcbs.get(known.main_tid), known.auxv)
    structured = recognisers(memory, mappings, known.allocators)
    claims += allocator_claims(memory, mappings, unclaimed(spans, claims), structured)
    claims += hotspot.claims(memory, mappings, known.open_file)
    readable = [(m.start, m.end) for m in wanted if m.anonymous and m.readable]
    claims += runtime_claims(memory, unclaimed(readable, claims))
    claims += _go_claims(known, memory, mappings, unclaimed(spans, claims))
    return claims[len(heaps) :]


def _go_claims(
    known: Beside, memory: NativeMemory, mappings: Sequence[Mapping], spans: Sequence[Span]
) -> Iterable[Claim]:
    """By the variables of the program, or, where it looks as if there were a heap of Go, of a
    library that Go's linker made."""
    if memory.abi.word_bytes != WORD or not spans:
        return
    libraries = any(owners_go.is_hinted(start) for start, _ in spans)
    only = None if libraries else known.program
    for path in go.modules(mappings, known.open_file, only):
        variables = dict(words_of(memory, data_of(mappings, path)))
        yield from owners_go.claims(memory, variables, spans)


def _auxv(pid: int) -> AuxVector | None:
    try:
        return procfs.auxv(pid)
    except AllocscopeError:
        return None


def unclaimed(spans: Iterable[Span], claims: Iterable[Claim]) -> list[Span]:
    """What is left of ascending spans."""
    taken = disjoint(claims)
    left: list[Span] = []
    first = 0
    for start, end in spans:
        while first < len(taken) and taken[first].end <= start:
            first += 1
        for claim in taken[first:]:
            if claim.start >= end:
                break
            if claim.start > start:
                left.append((start, claim.start))
            start = max(start, claim.end)
        if start < end:
            left.append((start, end))
    return left
