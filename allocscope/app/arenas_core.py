"""``arenas CORE``: the same reading, of a core file; and what every verb that reads one shares.

A core stands still, so one round must do. It tells no page states: "resident" is what it holds
but for pages of zeros, and that is said; what it does not tell at all is null.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from allocscope.app import heap
from allocscope.app.core_target import CoreTarget, look_at
from allocscope.app.target import Target
from allocscope.errors import AllocscopeError
from allocscope.files.core import Core
from allocscope.glibc.pieces import Trim
from allocscope.glibc.threads import ThreadHead, find_tcbs
from allocscope.immutable import immutable, replace
from allocscope.model.heap import ArenasData, Figures
from allocscope.model.report import Caveat, Method, Report
from allocscope.proc import allocators

CORE_RESIDENCY = Caveat(
    "core-residency",
    "A core does not tell which pages were resident: pages of zeros count as never touched, "
    "all others that it holds as resident, though some may have been swapped out.",
)


@immutable
class CoreReading:
    """A core's process, its heap, and what must be known of both."""

    found: CoreTarget
    answer: heap.HeapAnswer
    data: ArenasData
    caveats: tuple[Caveat, ...]

    @property
    def target(self) -> Target:
        return self.found.target


@contextlib.contextmanager
def opened(path: Path, deadline_ns: int) -> Iterator[Core]:
    """The core, which must still be whole at the end. ``deadline_ns``: CLOCK_MONOTONIC.

    Raises BadInput (9), MissingPart (8)."""
    with Core(path, deadline_ns=deadline_ns) as core:
        try:
            yield core
        except AllocscopeError:
            core.require_whole()  # what failed may have failed because of that
            raise
        core.require_whole()


def read_core(
    core: Core, exe: Path | None, *, pins: bool = False, pad_bytes: int = 0
) -> CoreReading:
    """Reads the heap of an open core until its deadline. ``pins``: as in heap.read;
    ``pad_bytes``: of the malloc_trim that is foretold. Raises BadInput (9), NoGlibcHeap (5)."""
    found = look_at(core, exe)
    answer = heap.read(
        core,
        found.target,
        sort=heap.FROZEN,
        deadline_ns=core.deadline_ns,
        found=(found.located, found.image),
        trim=Trim(pad_bytes),
        pins=pins,
    )
    data = heap.present(answer, found.target, rss_bytes=None, smaps=None)
    data = _without_page_states(data)
    caveats = (
        *found.caveats,
        *_page_caveats(core),
        *_allocator_caveats(core),
        *_thread_caveats(core, found.target.threads, answer),
        *heap.caveats(answer, data, of_core=True),
    )
    return CoreReading(found, answer, data, caveats)


def read_at_most(core: Core, read: CoreReading, *, pad_bytes: int = 0) -> heap.HeapAnswer:
    """The reading as it would be if all that the core holds had been resident."""
    with core.at_most() as memory:
        return heap.read(
            memory,
            read.target,
            sort=heap.FROZEN,
            deadline_ns=core.deadline_ns,
            found=(read.found.located, read.found.image),
            trim=Trim(pad_bytes),
        )


def arenas_of_core(path: Path, *, exe: Path | None, deadline_s: float) -> Report[ArenasData]:
    """The arenas of the process whose core ``path`` is; ``exe``: its program.

    Raises BadInput (9), NoGlibcHeap (5), MissingPart (8)."""
    started = time.monotonic_ns()
    deadline_ns = started + int(deadline_s * 1e9)
    with opened(path, deadline_ns) as core:
        reading = read_core(core, exe)
    return Report(
        process=reading.target.process,
        libc=reading.answer.libc,
        allocator=None,
        method=Method("core", 0, time.monotonic_ns() - started, reading.answer.consistency),
        data=reading.data,
        caveats=reading.caveats,
    )


def _without_page_states(data: ArenasData) -> ArenasData:
    """What a core cannot tell becomes unknown."""

    def unknown(figures: Figures) -> Figures:
        return replace(figures, swapped_bytes=None, huge_bytes=None)

    arenas = tuple(
        replace(
            arena,
            figures=unknown(arena.figures),
            heaps=tuple(replace(item, swapped_bytes=None, huge_bytes=None) for item in arena.heaps),
        )
        for arena in data.arenas
    )
    return replace(data, arenas=arenas, totals=unknown(data.totals))


def _page_caveats(core: Core) -> Iterable[Caveat]:
    yield CORE_RESIDENCY
    missing = core.missing
    if missing:
        total = sum(segment.end - segment.held_end for segment in missing)
        text = (
            f"{total} bytes of {len(missing)} writable mappings are not in the core "
            "(coredump_filter, or pages left out by what wrote it): they count as not resident."
        )
        yield Caveat("core-incomplete", text)


def _allocator_caveats(core: Core) -> Iterable[Caveat]:
    names = allocators.named(file.path for file in core.notes.files)
    if names:
        text = (
            f"{', '.join(names)} is mapped too: if it serves malloc, glibc's arenas hold only what "
            "glibc itself uses."
        )
        yield Caveat("other-allocator", text)


def _thread_caveats(
    core: Core, threads: Sequence[ThreadHead], answer: heap.HeapAnswer
) -> Iterable[Caveat]:
    """Without a thread's control block its tcache is not found. gdb 13 writes zeros
    for a whole mapping when one page of it cannot be read, as the guard pages of thread stacks
    from glibc 2.42 on."""
    if answer.reading.layout.tcache is None or answer.reading.shaped_count:
        return
    if not threads:
        text = "The core names no threads: chunks in their tcaches count as live."
        yield Caveat("core-without-threads", text, partial=True)
    lost = len(threads) - len(find_tcbs(core, threads))
    if lost:
        text = (
            f"The control blocks of {lost} of {len(threads)} threads are not in the core, or are "
            "zeros there: chunks in their tcaches count as live."
        )
        yield Caveat("core-without-threads", text, partial=True)
