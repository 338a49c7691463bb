"""``tune PID``: what the present state of a process says about its malloc settings. It only reads:
the same survey as for ``explain``."""

from __future__ import annotations

from allocscope.app.explain import ExplainOptions, survey
from allocscope.causes import tune as rules
from allocscope.model.report import Report
from allocscope.model.tune import TuneData


def tune(pid: int, deadline_s: float) -> Report[TuneData]:
    """Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5)."""
    found = survey(pid, ExplainOptions(deadline_s=deadline_s))
    version = None if found.libc is None else found.libc.version
    return Report(
        process=found.process,
        libc=found.libc,
        allocator=found.allocator,
        method=found.method,
        data=rules.tune(found.data, version),
        caveats=found.caveats,
    )
