"""``footprint`` of a recording: the kernel's figures for its process, as they were recorded.

Rules: what the recording does not tell is None (all but RSS in one of the first versions; PSS and
what rests on it, where smaps was not read); so is the tree, because descendants are not recorded. A
core has none of these figures.
"""

from __future__ import annotations

import time
from pathlib import Path

from allocscope.account import footprint as account
from allocscope.app.arenas_file import not_recorded, target_of
from allocscope.app.footprint import OMITS
from allocscope.app.retained import retained_bytes
from allocscope.app.target import find_malloc
from allocscope.errors import BadInput, MemoryGap, NoGlibcHeap
from allocscope.files import CORE, kind_of
from allocscope.files.recording import Sample, open_sample
from allocscope.glibc.states import InvalidHeap, read_ring
from allocscope.immutable import replace
from allocscope.model.footprint import Footprint, FootprintAnswer, FootprintData
from allocscope.model.recording import Facts
from allocscope.model.report import Method


def footprint_of_file(path: Path, *, sample: int | None, retained: bool) -> FootprintAnswer:
    """One row. ``sample``: counted from 1, the last by default; ``retained``: also what glibc's
    malloc held free.

    Raises BadInput (9) for a core; WrongUsage (2: no such sample)."""
    started = time.monotonic_ns()
    if kind_of(path) == CORE:
        raise BadInput(
            f"{path} is a core file, which does not tell RSS, PSS or swap, nor what was shared",
            "`map FILE` tells what was mapped, `arenas FILE` what malloc held. Record a process "
            "while it runs: `allocscope record PID -o FILE`.",
        )
    found = open_sample(path, sample)
    facts = found.facts
    with found.memory:
        row = _row(facts)
        if retained:
            row = replace(row, retained_bytes=_retained(found))
    totals = account.UNKNOWN if row.pss_bytes is None else account.totals([row])
    elapsed_ns = time.monotonic_ns() - started
    return FootprintAnswer(
        data=FootprintData((row,), totals, 0, 0, ()),
        caveats=(*not_recorded(_missing(facts)), *((OMITS,) if retained else ())),
        elapsed_ns=elapsed_ns,
        process=facts.process,
        method=Method("recording", facts.pause_ns, elapsed_ns, facts.consistency),
        captured_at=facts.captured_at,
    )


def _row(facts: Facts) -> Footprint:
    kernel = facts.kernel
    if kernel is None:
        return account.unread(facts.process.pid, facts.process.comm, facts.rss_bytes)
    row = account.row(facts.process.pid, kernel.status, kernel.rollup)
    return replace(row, comm=facts.process.comm)


def _missing(facts: Facts) -> list[str]:
    if facts.kernel is None:
        return ["any figure but RSS (it was made before the others were recorded)"]
    if facts.kernel.rollup is None:
        return [
            "PSS, USS, what was dirty or lazily freed, and the footprint (smaps was not read: "
            "`record --exact`)"
        ]
    return []


def _retained(found: Sample) -> int | None:
    """None where no malloc is found in it that can be read."""
    target = target_of(found.facts)
    try:
        located, _ = find_malloc(found.memory, target)
        ring = read_ring(found.memory, located.main_arena, located.layout.state)
        return retained_bytes(found.memory, ring, located.layout.state)
    except (NoGlibcHeap, InvalidHeap, MemoryGap):
        return None
