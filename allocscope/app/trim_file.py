"""``trim`` of a recording or a core: what malloc_trim would have given back at that moment.

The same walk applies the same rule. Of a core, which tells no residency, the pages count that
`arenas CORE` counts as resident. What calls and faults cost is measured on the machine that reads
the file, and that is said.
"""

from __future__ import annotations

import time
from pathlib import Path

from allocscope.account import trim as account
from allocscope.app import heap, mlocked
from allocscope.app.arenas_core import opened, read_at_most, read_core
from allocscope.app.arenas_file import arenas_of_sample
from allocscope.app.file_kind import is_core
from allocscope.app.trim import Foretold, TrimOptions, in_vain, judged
from allocscope.files.recording import open_sample
from allocscope.immutable import replace
from allocscope.model.recording import Facts
from allocscope.model.report import Caveat, Method, Report
from allocscope.model.trim import TrimData

PACE_HERE = Caveat(
    "pace-here",
    "The times are estimates at the pace of the machine on which this file is read.",
)

CORE_LOCKED = Caveat(
    "core-mlocked",
    "A core does not tell what was mlocked, where malloc_trim's madvise fails: the forecast "
    "includes it.",
)


def trim_of_file(
    path: Path, options: TrimOptions, *, sample: int | None, exe: Path | None
) -> Report[TrimData]:
    """The forecast for a process that was recorded, or that left a core. ``sample``: of a
    recording, counted from 1, the last by default; ``exe``: the program of a core.

    Raises BadInput (9), NoGlibcHeap (5), MissingPart (8), WrongUsage (2)."""
    started = time.monotonic_ns()
    deadline_ns = started + int(options.deadline_s * 1e9)
    if is_core(path, sample=sample, exe=exe):
        return _of_core(path, options, exe, started, deadline_ns)
    found = open_sample(path, sample)
    with found.memory:
        read = arenas_of_sample(found, path, deadline_ns, pad_bytes=options.pad_bytes)
    told, facts = read.report, found.facts
    foretold = judged(read.answer, told.data, options.pad_bytes)
    return Report(
        process=told.process,
        libc=told.libc,
        allocator=told.allocator,
        method=replace(told.method, elapsed_ns=time.monotonic_ns() - started),
        data=foretold.data(),
        caveats=(
            *(in_vain(facts.allocator) if facts.allocator.name != "glibc" else ()),
            *_of_locked(facts),
            *heap.caveats(read.answer, told.data),
            PACE_HERE,
        ),
        captured_at=told.captured_at,
    )


def _of_core(
    path: Path, options: TrimOptions, exe: Path | None, started_ns: int, deadline_ns: int
) -> Report[TrimData]:
    with opened(path, deadline_ns) as core:
        read = read_core(core, exe, pad_bytes=options.pad_bytes)
        most = read_at_most(core, read, pad_bytes=options.pad_bytes)
    foretold = judged(read.answer, read.data, options.pad_bytes)
    return Report(
        process=read.target.process,
        libc=read.answer.libc,
        allocator=None,
        method=Method("core", 0, time.monotonic_ns() - started_ns, read.answer.consistency),
        data=foretold.data(),
        caveats=(*read.caveats, *_at_most(foretold, most), CORE_LOCKED, PACE_HERE),
    )


def _at_most(foretold: Foretold, most: heap.HeapAnswer) -> tuple[Caveat, ...]:
    """``most``: read as if pages of zeros had been resident."""
    forecast = foretold.forecast
    there = account.forecast(most.reading, forecast.pad_bytes, forecast.pace).bytes
    if there == forecast.bytes:
        return ()
    text = f"Had all pages of zeros in its heap been resident, {there} bytes would go."
    return (Caveat("core-at-most", text),)


def _of_locked(facts: Facts) -> tuple[Caveat, ...]:
    """smaps tells where memory is mlocked, status whether any is."""
    if facts.smaps is not None:
        return ()
    if facts.kernel is not None and not facts.kernel.status.locked_bytes:
        return ()
    return (mlocked.NOT_RECORDED,)
