"""From things (arenas, heaps, size classes, threads) to the columns of a table.

A figure is a named way to get a value out of a thing, and how that value prints and adds up.
Rules: the heaviest things get a row of their own, the rest one row that sums them: folded, never
dropped; a figure that does not add up (names, pages shared by classes) is blank in a sum; a sum
with an unknown part is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from allocscope.immutable import immutable
from allocscope.render.columns import Column
from allocscope.render.text import Unit, unit_for

T = TypeVar("T")
Value = int | str | tuple[int, int] | None


@immutable
class Figure(Generic[T]):
    """``of`` yields bytes or a count (int, see ``kind``), a name (str), or a share (part, whole).

    ``kind``: bytes, count, share or name. ``gives_way``: as in Column. ``if_any``: the column is
    there only when some value is not zero.
    """

    title: str
    of: Callable[[T], Value]
    kind: str = "bytes"
    gives_way: int = 0
    if_any: bool = False
    adds_up: bool = True


@immutable
class Cut(Generic[T]):
    """A table to be: which things, which figures of them (the first names a row), and how they
    rank.

    Rows stand by falling ``weight``, or by rising ``order`` where there is one.
    """

    title: str
    things: Sequence[T]
    figures: Sequence[Figure[T]]
    weight: Callable[[T], int]
    order: Callable[[T], int] | None = None


def unit_of(cut: Cut[Any], exact: bool) -> Unit:
    """The unit in which the largest sum of ``cut`` reads best."""
    sums = [
        _sum([figure.of(thing) for thing in cut.things])
        for figure in cut.figures
        if figure.kind == "bytes"
    ]
    return unit_for(max((value for value in sums if isinstance(value, int)), default=0), exact)


def parted(cut: Cut[T], limit: int | None) -> tuple[list[T], list[T]]:
    """The things with a row of their own, as they stand, and those that one row sums up."""
    heaviest = sorted(cut.things, key=cut.weight, reverse=True)
    folds = limit is not None and len(heaviest) > limit + 1
    own, rest = (heaviest[:limit], heaviest[limit:]) if folds else (heaviest, [])
    if cut.order is not None:
        own.sort(key=cut.order)
    return own, rest


def columns(cut: Cut[Any], unit: Unit, limit: int | None) -> list[Column]:
    """The columns of a table of the heaviest ``limit`` (None: all) things, the rest in one row,
    and the sum of all.
    """
    things, figures = cut.things, cut.figures
    own, rest = parted(cut, limit)

    def column(figure: Figure[Any]) -> Column | None:
        values = [figure.of(thing) for thing in things]
        if figure.if_any and not any(values):
            return None
        cells = [_cell(figure.of(thing), figure.kind, unit) for thing in own]
        first = figure is figures[0]
        if rest:
            folded = _sum([figure.of(thing) for thing in rest]) if figure.adds_up else ""
            cells.append(f"… {len(rest)} more" if first else _cell(folded, figure.kind, unit))
        whole = _sum(values) if figure.adds_up else ""
        foot = "all" if first else _cell(whole, figure.kind, unit)
        return Column(figure.title, tuple(cells), foot, figure.gives_way, figure.kind == "name")

    return [made for made in map(column, figures) if made is not None]


def _sum(values: Sequence[Value]) -> Value:
    if None in values:
        return None
    if any(isinstance(value, str) for value in values):
        return ""
    pairs = [value for value in values if isinstance(value, tuple)]
    if pairs:
        return sum(part for part, _ in pairs), sum(whole for _, whole in pairs)
    return sum(value for value in values if isinstance(value, int))


def _cell(value: Value, kind: str, unit: Unit) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        part, whole = value
        return f"{100 * part / whole:.0f} %" if whole else ""
    if kind == "bytes":
        return unit.cell(value)
    return "?" if value is None else str(value)
