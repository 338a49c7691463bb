"""``map`` of a recording: the same rows, from what was recorded of owners and figures.

Rule: a mapping of which nothing is recorded (a file, where smaps was not read) has its size, and no
other figure.
"""

from __future__ import annotations

import time
from pathlib import Path

from allocscope.account.mapview import map_data
from allocscope.app.arenas_file import (
    OWNERS_UNTOLD,
    SMAPS_UNTOLD,
    allocator_caveats,
    arenas_of_sample,
    not_recorded,
)
from allocscope.app.explain_file import holdings_of_file
from allocscope.app.file_kind import is_core
from allocscope.app.ownership import caveats as owner_caveats
from allocscope.errors import BadInput
from allocscope.files.recording import open_sample
from allocscope.immutable import replace
from allocscope.model.mapview import MapData
from allocscope.model.recording import Facts
from allocscope.model.report import Report


def map_of_file(
    path: Path, *, raw: bool, sample: int | None, exe: Path | None, deadline_s: float
) -> Report[MapData]:
    """The mappings that a recording tells of. ``sample``: counted from 1, the last by default;
    ``exe``: the program of a core; ``raw``: as in map_process.

    Raises BadInput (9), NoGlibcHeap (5), WrongUsage (2)."""
    started = time.monotonic_ns()
    deadline_ns = started + int(deadline_s * 1e9)
    if is_core(path, sample=sample, exe=exe):
        raise BadInput("core")
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
