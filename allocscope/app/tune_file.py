"""``tune`` of a recording or a core: the same rules, over what the file tells.

Of a core the arenas' figures are those of `arenas CORE`. What a core does not tell (RSS,
contention, environment, CPUs) is None, and no rule that needs it suggests anything.
"""

from __future__ import annotations

import time
from pathlib import Path

from allocscope.account import ledger as account
from allocscope.app.arenas_core import opened, read_core
from allocscope.app.explain import ExplainOptions
from allocscope.app.explain_file import survey_file
from allocscope.app.file_kind import is_core
from allocscope.app.tune import tuned
from allocscope.causes import tune as rules
from allocscope.model.report import Method, Report
from allocscope.model.tune import TuneData
from allocscope.owners.divide import by_byte


def tune_of_file(
    path: Path, *, sample: int | None, exe: Path | None, deadline_s: float
) -> Report[TuneData]:
    """What a file says about malloc settings. ``sample``: of a recording, counted from 1, the last
    by default; ``exe``: the program of a core.

    Raises BadInput (9), NoGlibcHeap (5), MissingPart (8), WrongUsage (2)."""
    if is_core(path, sample=sample, exe=exe):
        return _of_core(path, exe, deadline_s)
    return tuned(survey_file(path, ExplainOptions(deadline_s=deadline_s), sample=sample).report)


def _of_core(path: Path, exe: Path | None, deadline_s: float) -> Report[TuneData]:
    started = time.monotonic_ns()
    with opened(path, started + int(deadline_s * 1e9)) as core:
        read = read_core(core, exe)

        def held(start: int, end: int) -> int:
            return by_byte(core.residency, start, end).resident_bytes

        arenas = read.answer.reading.arenas
        residence = tuple(account.residence(arena, held) for arena in arenas)
    libc = read.answer.libc
    case = rules.Case(
        rss_bytes=None,
        heap=read.data,
        residence=residence,
        contention=None,
        environ=None,
        version=libc.version,
    )
    return Report(
        process=read.target.process,
        libc=libc,
        allocator=None,
        method=Method("core", 0, time.monotonic_ns() - started, read.answer.consistency),
        data=rules.tune_case(case),
        caveats=read.caveats,
    )
