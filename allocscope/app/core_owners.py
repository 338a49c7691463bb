"""Who owns which memory of a core: the recognisers of a live process, over the core's memory.

What they ask of files is answered where the very same file is on this machine (same_files.py).
The kernel's names for mappings ([stack], [vdso]) are not in a core, but its auxiliary vector has
addresses in both. Shared mappings look like private ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from allocscope.app.core_target import CoreTarget
from allocscope.app.ownership import Beside, claims_beside
from allocscope.app.same_files import opener
from allocscope.files.core import Core
from allocscope.glibc.reading import HeapReading
from allocscope.model.owners import Claim, Holding
from allocscope.model.process import AuxVector, Mapping, SmapsEntry
from allocscope.model.walk import Residency
from allocscope.owners.divide import Resident, divide
from allocscope.owners.heap import heap_claims
from allocscope.owners.mapped import files_of
from allocscope.proc import allocators
from allocscope.proc.mapped import OpenFile

ELF_MAGIC = b"\x7fELF"
VSYSCALL = 0xFFFFFFFFFF600000
"""On x86-64 (Documentation/arch/x86/x86_64/mm.rst)."""


def files_here(core: Core, found: CoreTarget, exe: Path | None) -> OpenFile:
    """Opens files of the core's process. ``exe``: where its program is on this machine."""
    elsewhere = {} if exe is None else {found.program: str(exe)}
    return opener(core, found.target.mappings, elsewhere)


def claims_of_core(
    core: Core, found: CoreTarget, reading: HeapReading, open_file: OpenFile
) -> list[Claim]:
    """All claims, in the order in which they are believed. The recognisers see no pages of zeros,
    for of a live process they are shown none that were never touched."""
    mappings = found.target.mappings
    claims = [*heap_claims(reading), *_named_by_the_kernel(core, mappings)]
    known = _beside(core, found, open_file)
    with core.without_zeros() as memory:
        claims += claims_beside(known, memory, found.target, claims, mappings)
    return [*claims, *_data_of_programs(core, mappings), *_reserves(core, mappings)]


def holdings_of_core(
    mappings: Sequence[Mapping], claims: Sequence[Claim], resident: Resident
) -> tuple[tuple[SmapsEntry, ...], tuple[Holding, ...]]:
    """Every mapping with its figures as smaps would tell them, and divided among its owners.
    ``resident``: what is to be called so."""
    entries = []
    for mapping in mappings:
        there = resident(mapping.start, mapping.end).resident_bytes
        entries.append(SmapsEntry(mapping, there, there, 0, 0, 0, there, 0, 0))
    return tuple(entries), divide(entries, claims, files_of(mappings, ()), resident)


def nothing(_start: int, _end: int) -> Residency:
    """For who only wants to know whose the memory is."""
    return Residency(0, 0, 0, 0)


def is_reserve(core: Core, mapping: Mapping) -> bool:
    """Anonymous memory that holds nothing and cannot be given anything. gdb writes what may not be
    touched at all as if it could be read."""
    if mapping.inode or mapping.writable:
        return False
    return not core.residency(mapping.start, mapping.end).resident_bytes


def _beside(core: Core, found: CoreTarget, open_file: OpenFile) -> Beside:
    notes = core.notes
    vector = AuxVector(notes.base, notes.phdr, notes.phnum, notes.entry, notes.page_bytes, False)
    return Beside(
        main_tid=notes.pid,
        program=found.program,
        open_file=open_file,
        allocators=allocators.mapped_by_name(found.target.mappings),
        auxv=vector if notes.phdr else None,
    )


def _data_of_programs(core: Core, mappings: Sequence[Mapping]) -> Iterator[Claim]:
    """gdb leaves code out of a core: programs and libraries are known by their first bytes too."""
    begins = [mapping for mapping in mappings if mapping.inode and not mapping.offset]
    heads = core.read_each([mapping.start for mapping in begins], len(ELF_MAGIC))
    programs = {m.path for m, head in zip(begins, heads, strict=True) if head == ELF_MAGIC}
    for mapping in mappings:
        if mapping.writable and mapping.inode and mapping.path in programs:
            evidence = "a writable mapping of a program or library"
            yield Claim(mapping.start, mapping.end, "program-data", mapping.path, evidence)


def _named_by_the_kernel(core: Core, mappings: Sequence[Mapping]) -> Iterator[Claim]:
    for mapping in mappings:
        if mapping.inode:
            continue
        if mapping.start <= core.notes.random_bytes_at < mapping.end:
            evidence = "the kernel's random bytes (AT_RANDOM) are on it"
            owner = "stack of the main thread"
            yield Claim(mapping.start, mapping.end, "thread-stacks", owner, evidence)
        elif mapping.start == core.notes.vdso_start:
            evidence = "the kernel's code for fast system calls (AT_SYSINFO_EHDR)"
            yield Claim(mapping.start, mapping.end, "loader-and-special", "[vdso]", evidence)
        elif mapping.start == VSYSCALL:
            evidence = "the kernel's page for old system calls, always at that address"
            yield Claim(mapping.start, mapping.end, "loader-and-special", "[vsyscall]", evidence)
    yield from _data_of_vdso(core.notes.vdso_start, mappings)


def _reserves(core: Core, mappings: Sequence[Mapping]) -> Iterator[Claim]:
    for mapping in mappings:
        if is_reserve(core, mapping):
            owner, evidence = "reserved address space", "not writable, and nothing but zeros"
            yield Claim(mapping.start, mapping.end, "loader-and-special", owner, evidence)


def _data_of_vdso(vdso_start: int, mappings: Sequence[Mapping]) -> Iterator[Claim]:
    """Right before its code for system calls the kernel maps the data for it, which nobody can
    write to."""
    end = vdso_start
    for mapping in reversed(mappings):
        if mapping.end == end and not mapping.inode and not mapping.writable:
            evidence = "the kernel's data for fast system calls, right before its code"
            yield Claim(mapping.start, mapping.end, "loader-and-special", "[vvar]", evidence)
            end = mapping.start
