"""A series of figures as a row of small bars, one character for each."""

from __future__ import annotations

from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-:=+*#"
"""For terminals that cannot show BLOCKS."""
LEAST_SPAN_RATIO = 0.05
"""Bars span the least to the largest value, at least this share of the largest: what wavers by less
than a bar of that looks as flat as it is."""


def sparkline(values: Sequence[int | None], levels: str = BLOCKS) -> str:
    """One character for each value; a blank where it is unknown."""
    known = [value for value in values if value is not None]
    low, high = min(known, default=0), max(known, default=0)
    span = max(high - low, LEAST_SPAN_RATIO * high, 1)
    top = len(levels) - 1
    return "".join(
        " " if value is None else levels[round(top * (value - low) / span)] for value in values
    )
