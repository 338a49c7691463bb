"""What ``free`` gives back at the end of a heap.

The rule is free()'s own (_int_free in malloc.c, heap_trim in arena.c): a chunk of at least 64 KiB
after merging, a top of at least the trim threshold, and top_pad stays. The main heap shrinks only
where it ends at the break.
"""

from __future__ import annotations

from collections.abc import Callable

from allocscope.glibc.abi import Abi
from allocscope.glibc.par import ParValues
from allocscope.glibc.pieces import Piece

TRIM_ATTEMPT_BYTES = 65536
"""FASTBIN_CONSOLIDATION_THRESHOLD, ATTEMPT_TRIMMING_THRESHOLD from 2.43 on."""

Sizes = Callable[[int, int], int]
"""Resident bytes of ``[start, end)``, whole pages."""


def can_shrink(index: int, piece: Piece, brk_end: int) -> bool:
    """Does free() ever shrink this row of the arena ``index``? ``brk_end``: where the break
    ends."""
    return piece.holds_top and bool(index or piece.end == brk_end)


def released_by_free(
    par: ParValues, abi: Abi, top: int, end: int, resident: Sizes | None
) -> int | None:
    """Resident bytes that free() hands back once top is ``[top, end)``; None where it hands back
    some, and nothing tells what is resident."""
    size = end - top
    if size < max(TRIM_ATTEMPT_BYTES, par.trim_threshold):
        return 0
    unit = par.thp_pagesize or abi.page_bytes
    extra = (size - abi.min_chunk_bytes - 1 - par.top_pad) // unit * unit
    if extra <= 0:
        return 0
    return None if resident is None else resident(end - extra, end)
