"""What a rule finds, before it is ranked.

A finding says how many bytes it explains and where in the ledger they lie: as cells, each a row of
the ledger, of glibc's rows one arena's part of it. Bytes in a cell go to the first finding that
takes them, so that no byte of the ledger counts twice in ``exclusive_bytes``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from allocscope.immutable import immutable
from allocscope.model.ledger import CauseKey, Confidence, LedgerKey, Remedy
from allocscope.model.situation import ArenaResidence, Situation
from allocscope.units import size

MOST_NAMED = 3

Cell = tuple[LedgerKey, int | None]
"""A row of the ledger, and of which arena (None: not of an arena)."""


@immutable
class Finding:
    """One cause. ``takes``: its bytes by cell; ``outside_bytes``: those that are not in RSS.
    ``headline`` follows "of which" in the verdict, "and" where its bytes are not in RSS."""

    key: CauseKey
    title: str
    bytes: int
    takes: tuple[tuple[Cell, int], ...]
    confidence: Confidence
    headline: str
    evidence: tuple[str, ...]
    remedies: tuple[Remedy, ...]
    outside_bytes: int = 0


Rule = Callable[[Situation], Finding | None]


def of_arenas(
    situation: Situation, key: LedgerKey, of: Callable[[ArenaResidence], int]
) -> tuple[tuple[Cell, int], ...]:
    """The same figure of every arena, as cells of one row."""
    rows = ((arena.index, of(arena)) for arena in situation.residence)
    return tuple(((key, index), size) for index, size in rows if size)


def of_row(key: LedgerKey, size: int) -> tuple[tuple[Cell, int], ...]:
    return (((key, None), size),) if size else ()


def up_to(takes: Iterable[tuple[Cell, int]], most: int) -> tuple[tuple[Cell, int], ...]:
    """The first of these cells, ``most`` bytes of them."""
    kept = []
    for cell, wanted in takes:
        taken = min(wanted, most)
        most -= taken
        if taken:
            kept.append((cell, taken))
    return tuple(kept)


def share(part: int, whole: int) -> str:
    """``part`` of ``whole`` in per cent."""
    return f"{100 * part / whole:.0f} %" if whole else "nothing"


def heaviest(amounts: Iterable[tuple[str, int]]) -> str:
    """The owners of most, by name, each with its sum; "" for nothing."""
    sums: dict[str, int] = {}
    for owner, amount in amounts:
        sums[owner] = sums.get(owner, 0) + amount
    ranked = sorted((owner for owner in sums if sums[owner]), key=lambda owner: -sums[owner])
    return ", ".join(f"{owner} {size(sums[owner])}" for owner in ranked[:MOST_NAMED])
