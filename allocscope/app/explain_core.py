"""``explain`` of a core: the heap read as ``arenas CORE`` reads it, and once more as if every page
had been resident.

A core tells neither RSS nor what was resident. The first reading counts the pages that are not all
zeros, which were in memory or in swap; the second what there can have been at most. Between the two
nothing is guessed: holes in a core's file prove no more than zeros do, for copying a file makes and
fills them, and gdb leaves out zeros that were resident.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from pathlib import Path

from allocscope.account import ledger as account
from allocscope.app import heap
from allocscope.app.arenas_core import CoreReading, opened, read_at_most, read_core
from allocscope.app.core_owners import claims_of_core, files_here, holdings_of_core, is_reserve
from allocscope.app.explain import ExplainOptions
from allocscope.app.ownership import caveats as owner_caveats
from allocscope.app.page_map import cells_by_heap
from allocscope.causes.at_most import explain_core
from allocscope.files.core import Core
from allocscope.glibc.reading import HeapReading
from allocscope.immutable import immutable
from allocscope.model.core_explanation import HEAP_ROWS, CoreExplanation
from allocscope.model.heap import ArenasData
from allocscope.model.ledger import Ledger
from allocscope.model.owners import Holding
from allocscope.model.page_map import PageMap
from allocscope.model.process import Mapping, SmapsEntry
from allocscope.model.report import Caveat, Method, Report
from allocscope.model.situation import ArenaResidence, Situation
from allocscope.model.walk import Residency
from allocscope.owners.divide import Resident, by_byte

RESIDENCY = Caveat(
    "core-residency",
    "A core does not tell which pages were resident. Those that are not zeros were in memory or in "
    "swap; of the others nothing is known, and they count where it says at most. What is called "
    "resident of arenas, or in memory on a map, is what is not zeros.",
)


@immutable
class CorePortrait:
    """The answer about a core. ``heap``: as ``arenas CORE`` tells it, "resident" being what is not
    zeros; ``at_most``: what it can have been; ``pages``: None unless they were asked for."""

    report: Report[CoreExplanation]
    heap: ArenasData
    at_most: ArenasData
    pages: PageMap | None


def portrait_of_core(path: Path, options: ExplainOptions, *, exe: Path | None) -> CorePortrait:
    """What the process held that left this core. ``exe``: its program.

    Raises BadInput (9), NoGlibcHeap (5), MissingPart (8)."""
    started_ns = time.monotonic_ns()
    deadline_ns = started_ns + int(options.deadline_s * 1e9)
    with opened(path, deadline_ns) as core:
        core.maps_pages = options.pages
        read = read_core(core, exe)
        most = read_at_most(core, read)
        data, of_heap = _explained(core, exe, read, most)
        of_owners = owner_caveats(core)
    report = Report(
        process=read.target.process,
        libc=read.answer.libc,
        allocator=None,
        method=Method("core", 0, time.monotonic_ns() - started_ns, read.answer.consistency),
        data=data,
        caveats=(
            RESIDENCY,
            *(one for one in read.caveats if one.code != RESIDENCY.code),
            *of_owners,
        ),
    )
    pages = PageMap(cells_by_heap(read.answer.reading), lazy_known=False)
    return CorePortrait(report, read.data, of_heap, pages if options.pages else None)


def _explained(
    core: Core, exe: Path | None, read: CoreReading, most: heap.HeapAnswer
) -> tuple[CoreExplanation, ArenasData]:
    claims = claims_of_core(
        core, read.found, read.answer.reading, files_here(core, read.found, exe)
    )
    mappings = read.target.mappings
    all_of_it = _usable(core, mappings)
    entries, parts = holdings_of_core(mappings, claims, all_of_it)
    ledger, residence = _ledger(entries, parts, most.reading, all_of_it)
    of_heap = heap.present(most, read.target, rss_bytes=None, smaps=None)
    situation = Situation(
        process=read.target.process,
        allocator=None,
        ledger=Ledger(sum(ledger.resident(key) for key in HEAP_ROWS), ledger.rows, 0),
        holdings=parts,
        smaps=entries,
        heap=of_heap,
        residence=residence,
        rollup=None,
        status=None,
        limits=None,
        outside=None,
        pressure=None,
        contention=None,
        environ=None,
        at_most=True,
    )
    entries, parts = holdings_of_core(mappings, claims, core.residency)
    nonzero, seen = _ledger(entries, parts, read.answer.reading, core.residency)
    return explain_core(situation, nonzero, seen), of_heap


def _ledger(
    entries: tuple[SmapsEntry, ...],
    parts: tuple[Holding, ...],
    reading: HeapReading,
    resident: Resident,
) -> tuple[Ledger, tuple[ArenaResidence, ...]]:
    def sizes(start: int, end: int) -> int:
        return by_byte(resident, start, end).resident_bytes

    rows = account.ledger(entries, parts, reading, sizes)
    return rows, tuple(account.residence(arena, sizes) for arena in reading.arenas)


def _usable(core: Core, mappings: tuple[Mapping, ...]) -> Resident:
    """All memory but what is a reserve alone."""
    barred = [(m.start, m.end) for m in mappings if is_reserve(core, m)]

    def resident(start: int, end: int) -> Residency:
        lost = 0
        at = max(bisect_right(barred, (start, start)) - 1, 0)
        while at < len(barred) and barred[at][0] < end:
            lost += max(0, min(end, barred[at][1]) - max(start, barred[at][0]))
            at += 1
        return Residency(end - start - lost, 0, 0, 0)

    return resident
