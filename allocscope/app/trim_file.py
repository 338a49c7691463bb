"""``trim`` of a recording: what malloc_trim would have given back at that moment.

The same walk applies the same rule. Nothing can be tried or done there. What calls and faults cost
is measured on the machine that reads the file, and that is said.
"""

from __future__ import annotations

import time
from pathlib import Path

from allocscope.app import heap, mlocked
from allocscope.app.arenas_file import arenas_of_sample
from allocscope.app.file_kind import is_core
from allocscope.app.trim import TrimOptions, in_vain, judged
from allocscope.files.recording import open_sample
from allocscope.immutable import replace
from allocscope.model.recording import Facts
from allocscope.model.report import Caveat, Report
from allocscope.model.trim import TrimData

PACE_HERE = Caveat(
    "pace-here",
    "The times are estimates at the pace of the machine on which this file is read.",
)


def trim_of_file(
    path: Path, options: TrimOptions, *, sample: int | None, exe: Path | None
) -> Report[TrimData]:
    """The forecast for a recorded process. ``sample``: counted from 1, the last by default;
    ``exe``: the program of a core.

    Raises BadInput (9), NoGlibcHeap (5), WrongUsage (2)."""
    started = time.monotonic_ns()
    deadline_ns = started + int(options.deadline_s * 1e9)
    if is_core(path, sample=sample, exe=exe):
        raise NotImplementedError
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


def _of_locked(facts: Facts) -> tuple[Caveat, ...]:
    """smaps tells where memory is mlocked, status whether any is."""
    if facts.smaps is not None:
        return ()
    if facts.kernel is not None and not facts.kernel.status.locked_bytes:
        return ()
    return (mlocked.NOT_RECORDED,)
