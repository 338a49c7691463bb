"""The rows of ``doctor``."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """``status``: ok, degraded or missing. ``cure`` is "" when ok."""

    key: str
    status: str
    message: str
    cure: str


@dataclasses.dataclass(frozen=True, slots=True)
class DoctorData:
    checks: tuple[Check, ...]
