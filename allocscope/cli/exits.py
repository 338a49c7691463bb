"""The exit status of several answers: the worst of theirs.

Worst first: our own defect, then what concerns the target's safety, then what stands in the way of
every answer (permission, a missing part, an input), then what is the target's own (no glibc heap,
gone), then an answer that is partial.
"""

from __future__ import annotations

from collections.abc import Iterable

INTERRUPTED = 130
"""Ended by Ctrl-C."""
WORST_FIRST = (10, 7, 4, 8, 9, 5, 3, 6, 0)


def worst(codes: Iterable[int]) -> int:
    """The worst of ``codes``; 0 of none."""
    return min(codes, key=WORST_FIRST.index, default=0)
