"""``map`` of a recording or a core: the same rows, from what the file tells of owners and figures.

Rule: a mapping of which the file tells no figures (all of a core; files in a recording for which
smaps was not read) has its size, and the others are None.
"""

from __future__ import annotations

import time
from pathlib import Path

from allocscope.account.mapview import map_data
from allocscope.app.arenas_core import CORE_RESIDENCY, opened, read_core
from allocscope.app.arenas_file import (
    OWNERS_UNTOLD,
    SMAPS_UNTOLD,
    allocator_caveats,
    arenas_of_sample,
    not_recorded,
)
from allocscope.app.core_owners import claims_of_core, files_here, holdings_of_core, nothing
from allocscope.app.explain_file import holdings_of_file
from allocscope.app.file_kind import is_core
from allocscope.app.ownership import caveats as owner_caveats
from allocscope.files.recording import open_sample
from allocscope.immutable import replace
from allocscope.model.mapview import MapData
from allocscope.model.recording import Facts
from allocscope.model.report import Caveat, Method, Report
from allocscope.owners.divide import without_figures

CORE_MAPPINGS = Caveat(
    "core-mappings",
    "A core tells what was mapped, not what of it was resident, nor which mappings were shared: "
    "those of files count as private.",
)


def map_of_file(
    path: Path, *, raw: bool, sample: int | None, exe: Path | None, deadline_s: float
) -> Report[MapData]:
    """The mappings that a file tells of. ``sample``: of a recording, counted from 1, the last by
    default; ``exe``: the program of a core; ``raw``: as in map_process.

    Raises BadInput (9), NoGlibcHeap (5), MissingPart (8), WrongUsage (2)."""
    started = time.monotonic_ns()
    deadline_ns = started + int(deadline_s * 1e9)
    if is_core(path, sample=sample, exe=exe):
        return _of_core(path, exe, raw, started, deadline_ns)
    found = open_sample(path, sample)
    with found.memory:
        answer = arenas_of_sample(found, path, deadline_ns)
        parts = holdings_of_file(answer, found.memory, all_mappings=True)
        of_owners = owner_caveats(found.memory)
    told = answer.report
    return Report(
        process=told.process,
        libc=told.libc,
        allocator=told.allocator,
        method=replace(told.method, elapsed_ns=time.monotonic_ns() - started),
        data=map_data(parts, _rss_bytes(found.facts), raw=raw),
        caveats=(
            *of_owners,
            *allocator_caveats(found.facts),
            *not_recorded(list(_missing(found.facts))),
        ),
        captured_at=told.captured_at,
    )


def _of_core(
    path: Path, exe: Path | None, raw: bool, started_ns: int, deadline_ns: int
) -> Report[MapData]:
    with opened(path, deadline_ns) as core:
        read = read_core(core, exe)
        open_file = files_here(core, read.found, exe)
        claims = claims_of_core(core, read.found, read.answer.reading, open_file)
        listed = (*read.target.mappings, *core.files_left_out())
        listed = tuple(sorted(listed, key=lambda mapping: mapping.start))
        _, parts = holdings_of_core(listed, claims, nothing)
        parts = tuple(map(without_figures, parts))
        of_owners = owner_caveats(core)
    return Report(
        process=read.target.process,
        libc=read.answer.libc,
        allocator=None,
        method=Method("core", 0, time.monotonic_ns() - started_ns, read.answer.consistency),
        data=map_data(parts, None, raw=raw),
        caveats=(
            CORE_MAPPINGS,
            *of_owners,
            *(caveat for caveat in read.caveats if caveat.code != CORE_RESIDENCY.code),
        ),
    )


def _rss_bytes(facts: Facts) -> int:
    if facts.smaps is None:
        return facts.rss_bytes
    return sum(entry.rss_bytes for entry in facts.smaps)


def _missing(facts: Facts) -> list[str]:
    untold = (
        (facts.smaps is None, SMAPS_UNTOLD),
        (facts.ownership is None, OWNERS_UNTOLD),
    )
    return [what for is_missing, what in untold if is_missing]
