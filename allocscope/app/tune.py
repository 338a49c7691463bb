"""``tune``: what the present state of a process says about its malloc settings. It only reads: the
same survey as for ``explain``."""

from __future__ import annotations

from allocscope.app.explain import ExplainOptions, survey
from allocscope.causes import tune as rules
from allocscope.model.report import Report
from allocscope.model.situation import Situation
from allocscope.model.tune import TuneData


def tune(pid: int, deadline_s: float) -> Report[TuneData]:
    """Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5)."""
    return tuned(survey(pid, ExplainOptions(deadline_s=deadline_s)))


def tuned(found: Report[Situation]) -> Report[TuneData]:
    """The same of a survey."""
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
