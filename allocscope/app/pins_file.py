"""``pins`` of a core or a recording: the same chunks, found by the same walk.

Rules: what a file does not tell is None. A core holds the program's data, but not what was
resident; a recording tells what was resident, and holds data only where it was made with contents,
of the places that contents.py names.
"""

from __future__ import annotations

import time
from pathlib import Path

from allocscope.app.arenas_core import opened, read_core
from allocscope.app.arenas_file import FileAnswer, arenas_of_sample
from allocscope.app.contents import data_spans
from allocscope.app.core_owners import claims_of_core, files_here, holdings_of_core, nothing
from allocscope.app.explain_file import holdings_of_file
from allocscope.app.file_kind import is_core
from allocscope.app.ownership import caveats as owner_caveats
from allocscope.app.pins_search import PinsOptions, Searched, Span, search, writable
from allocscope.app.same_files import opener
from allocscope.files.recording import Sample, open_sample
from allocscope.model.pins import PinsData
from allocscope.model.report import Caveat, Method, Report
from allocscope.proc.names import Names

DEADLINE = Caveat(
    "deadline",
    "the deadline came before all memory was searched; raise --deadline.",
    partial=True,
)
NOT_RELEASED = Caveat(
    "core-release",
    "A core does not tell how much of what free() would hand back was resident: chunks stand in "
    "the order of the free memory below them. Free bytes beside live chunks were in memory or in "
    "swap, for their pages hold chunk headers.",
)
NO_CONTENTS = Caveat(
    "no-contents",
    "This recording holds no contents: what a chunk is and who points at it is not told. `record "
    "--with-contents` keeps what that needs.",
)
SOME_CONTENTS = Caveat(
    "contents-of-some",
    "Pointers were looked for in what the recording holds the contents of: arenas, stacks, and the "
    "data of programs and libraries. Those in other memory are not seen.",
)


def pins_of_file(
    path: Path, options: PinsOptions, *, sample: int | None, exe: Path | None
) -> Report[PinsData]:
    """What held the free memory of a recorded process, or of one that left a core. ``sample``:
    counted from 1, the last by default; ``exe``: the program of a core.

    Raises BadInput (9), NoGlibcHeap (5), MissingPart (8), WrongUsage (2: an option of the other
    kind, or no such sample)."""
    deadline_ns = time.monotonic_ns() + int(options.deadline_s * 1e9)
    if is_core(path, sample=sample, exe=exe):
        return _of_core(path, options, exe, deadline_ns)
    found = open_sample(path, sample)
    with found.memory:
        return _of_sample(found, path, options, deadline_ns)


def _of_core(
    path: Path, options: PinsOptions, exe: Path | None, deadline_ns: int
) -> Report[PinsData]:
    started_ns = time.monotonic_ns()
    with opened(path, deadline_ns) as core:
        read = read_core(core, exe, pins=True)
        open_file = files_here(core, read.found, exe)
        reading, mappings = read.answer.reading, read.target.mappings
        claims = claims_of_core(core, read.found, reading, open_file)
        searched = Searched(
            memory=core,
            reading=reading,
            parts=holdings_of_core(mappings, claims, nothing)[1],
            names=Names(mappings, open_file),
            brk_end=max((end for _, end in read.target.brk_spans), default=0),
            spans=writable(mappings),
            tells_residency=False,
        )
        data = search(searched, options)
        of_owners = owner_caveats(core)
    return Report(
        process=read.target.process,
        libc=read.answer.libc,
        allocator=None,
        method=Method("core", 0, time.monotonic_ns() - started_ns, read.answer.consistency),
        data=data,
        caveats=(*read.caveats, NOT_RELEASED, *of_owners, *_late(deadline_ns)),
    )


def _of_sample(
    found: Sample, path: Path, options: PinsOptions, deadline_ns: int
) -> Report[PinsData]:
    started_ns = time.monotonic_ns()
    answer = arenas_of_sample(found, path, deadline_ns, pins=True)
    reading, target = answer.answer.reading, answer.target
    searched = Searched(
        memory=found.memory,
        reading=reading,
        parts=holdings_of_file(answer, found.memory),
        names=Names(target.mappings, opener(found.memory, target.mappings)),
        brk_end=max((end for _, end in target.brk_spans), default=0),
        spans=_with_contents(answer),
    )
    data = search(searched, options)
    told = answer.report
    return Report(
        process=told.process,
        libc=told.libc,
        allocator=told.allocator,
        method=Method(
            told.method.source,
            told.method.pause_ns,
            time.monotonic_ns() - started_ns,
            told.method.consistency,
        ),
        data=data,
        caveats=(
            *told.caveats,
            SOME_CONTENTS if found.facts.with_contents else NO_CONTENTS,
            *_late(deadline_ns),
        ),
        captured_at=told.captured_at,
    )


def _with_contents(answer: FileAnswer) -> tuple[Span, ...] | None:
    """The memory whose contents are recorded, ascending; None where none is."""
    facts = answer.facts
    if not facts.with_contents:
        return None
    arenas = answer.answer.reading.arenas
    heaps = [(piece.start, piece.end) for arena in arenas for piece in arena.pieces]
    owned = facts.ownership
    beside = [] if owned is None else data_spans(facts.mappings, owned)
    return tuple(sorted({*heaps, *beside}))


def _late(deadline_ns: int) -> tuple[Caveat, ...]:
    return (DEADLINE,) if time.monotonic_ns() > deadline_ns else ()
