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
from allocscope.immutable import replace
from allocscope.model.owners import Claim, Holding
from allocscope.model.process import AuxVector, Mapping, SmapsEntry
from allocscope.model.walk import Residency
from allocscope.owners.divide import divide, without_figures
from allocscope.owners.heap import heap_claims
from allocscope.owners.mapped import Files, files_of
from allocscope.proc import allocators
from allocscope.proc.mapped import OpenFile

NOTHING = Residency(0, 0, 0, 0)
ELF_MAGIC = b"\x7fELF"
VSYSCALL = 0xFFFFFFFFFF600000
"""Documentation/arch/x86/x86_64/mm.rst."""


def files_here(core: Core, found: CoreTarget, exe: Path | None) -> OpenFile:
    """Opens files of the core's process. ``exe``: where its program is on this machine."""
    elsewhere = {} if exe is None else {found.program: str(exe)}
    return opener(core, found.target.mappings, elsewhere)


def holdings_of_core(
    core: Core, found: CoreTarget, reading: HeapReading, open_file: OpenFile
) -> tuple[Holding, ...]:
    """Every mapping, divided among its owners, without figures: a core tells none. Those of files
    that the core leaves out are among them."""
    mappings = found.target.mappings
    claims = list(heap_claims(reading))
    claims += _named_by_the_kernel(core, mappings)
    claims += claims_beside(_beside(core, found, open_file), core, found.target, claims, mappings)
    listed = sorted((*mappings, *core.files_left_out()), key=lambda mapping: mapping.start)
    entries = [SmapsEntry(mapping, 0, 0, 0, 0, 0, 0, 0, 0) for mapping in listed]
    parts = divide(entries, claims, _files(core, mappings), lambda _start, _end: NOTHING)
    return tuple(map(without_figures, parts))


def _files(core: Core, mappings: Sequence[Mapping]) -> Files:
    """gdb leaves code out: programs and libraries are known by their first bytes too."""
    known = files_of(mappings, ())
    begins = [mapping for mapping in mappings if mapping.inode and not mapping.offset]
    heads = core.read_each([mapping.start for mapping in begins], len(ELF_MAGIC))
    headed = {m.path for m, head in zip(begins, heads, strict=True) if head == ELF_MAGIC}
    return replace(known, programs=known.programs | headed)


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
            evidence = "the kernel's page for old system calls, by its address"
            yield Claim(mapping.start, mapping.end, "loader-and-special", "[vsyscall]", evidence)
    yield from _data_of_vdso(core.notes.vdso_start, mappings)


def _data_of_vdso(vdso_start: int, mappings: Sequence[Mapping]) -> Iterator[Claim]:
    """Right before its code for system calls the kernel maps the data for it, which nobody can
    write to."""
    end = vdso_start
    for mapping in reversed(mappings):
        if mapping.end == end and not mapping.inode and not mapping.writable:
            evidence = "the kernel's data for fast system calls, right before its code"
            yield Claim(mapping.start, mapping.end, "loader-and-special", "[vvar]", evidence)
            end = mapping.start
