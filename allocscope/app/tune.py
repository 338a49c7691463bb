"""``tune``: what the present state of a process, or a recorded one, says about its malloc settings.
It only reads: the same survey as for ``explain``."""

from __future__ import annotations

from pathlib import Path

from allocscope.app.explain import ExplainOptions, survey
from allocscope.causes import tune as rules
from allocscope.model.report import Report
from allocscope.model.situation import Situation
from allocscope.model.tune import TuneData


def tune(pid: int, deadline_s: float) -> Report[TuneData]:
    """Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5)."""
    return _tuned(survey(pid, ExplainOptions(deadline_s=deadline_s)))


def tune_of_file(
    path: Path, *, sample: int | None, exe: Path | None, deadline_s: float
) -> Report[TuneData]:
    """The same of a recording. ``sample``: counted from 1, the last by default; ``exe``: the
    program of a core.

    Raises BadInput (9), NoGlibcHeap (5), WrongUsage (2)."""
    from allocscope.app.explain_file import survey_file
    from allocscope.app.file_kind import is_core

    if is_core(path, sample=sample, exe=exe):
        raise NotImplementedError
    return _tuned(survey_file(path, ExplainOptions(deadline_s=deadline_s), sample=sample).report)


def _tuned(found: Report[Situation]) -> Report[TuneData]:
    version = None if found.libc is None else found.libc.version
    return Report(
        process=found.process,
        libc=found.libc,
        allocator=found.allocator,
        method=found.method,
        data=rules.tune(found.data, version),
        caveats=found.caveats,
        captured_at=found.captured_at,
    )
