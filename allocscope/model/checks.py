"""The rows of ``doctor``."""

from __future__ import annotations

from allocscope.immutable import immutable


@immutable
class Check:
    """``status``: ok, degraded or missing. ``cure`` is "" when ok."""

    key: str
    status: str
    message: str
    cure: str


@immutable
class DoctorData:
    checks: tuple[Check, ...]
