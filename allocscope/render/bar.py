"""A bar of letters: how much of a whole each part is, in characters."""

from __future__ import annotations

from collections.abc import Sequence


def stacked(parts: Sequence[tuple[str, int]], width: int) -> str:
    """``[LLLLLLFFFFs]``, ``width`` characters long: each part's letter, as often as its share says.

    A part that is too small for a character gets none; the characters always fill the bar."""
    whole = sum(amount for _, amount in parts)
    cells = width - 2
    if whole <= 0 or cells <= 0:
        return ""
    drawn = ""
    before = 0
    for letter, amount in parts:
        before += amount
        drawn += letter * (round(cells * before / whole) - len(drawn))
    return f"[{drawn}]"
