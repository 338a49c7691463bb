"""What ``repro`` found out: each figure of a fixture's truth beside what allocscope reports."""

from __future__ import annotations

from typing import Literal

from allocscope.immutable import immutable
from allocscope.model.heap import ArenasData
from allocscope.model.report import Report

Relation = Literal["equal", "at-least", "at-most"]
"""How what was found must stand to the truth."""


@immutable
class FixtureInfo:
    """A fixture that can be run; ``summary`` is the first sentence of its source."""

    name: str
    summary: str


@immutable
class ReproRow:
    """One comparison, in the unit that the figure's name ends with. ``found`` is None where
    allocscope does not know the figure; that is never ``ok``."""

    figure: str
    relation: Relation
    truth: int
    found: int | None
    ok: bool


@immutable
class ReproResult:
    """One fixture, run and looked at. ``report`` is what the user would have been told."""

    fixture: str
    seed: int
    headline: str
    rows: tuple[ReproRow, ...]
    report: Report[ArenasData]

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)
