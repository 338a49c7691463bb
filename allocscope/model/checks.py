"""The rows of ``doctor``."""

from __future__ import annotations

from allocscope.immutable import immutable
from allocscope.model.layout_report import LayoutReport
from allocscope.model.process import Process

NEEDED = frozenset({"native-helper", "read-permission", "glibc-heap"})
"""What ``arenas`` cannot do without."""


@immutable
class Check:
    """``status``: ok, degraded or missing. ``cure`` is "" when ok."""

    key: str
    status: str
    message: str
    cure: str


@immutable
class DoctorData:
    """``layout`` is None unless it was asked for; then nothing else is examined."""

    checks: tuple[Check, ...]
    layout: LayoutReport | None = None


@immutable
class Checkup:
    """What was found. ``process`` is None where no target was given."""

    process: Process | None
    data: DoctorData
    elapsed_ns: int

    @property
    def blocked(self) -> bool:
        """Something that ``arenas`` itself needs is missing."""
        return any(c.status == "missing" and c.key in NEEDED for c in self.data.checks)
