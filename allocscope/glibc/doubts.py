"""Reading an arena with long fastbins in one pass: its chunks first, its lists afterwards.

Strategy: a chunk in a fastbin looks allocated, and following a long list costs a dependent read for
each element. A mangled link says of itself that it is one, nearly always: so the walk keeps the
chunks in use whose size and link fit a fastbin (chunks in doubt), and the lists are then followed
among those, without any further reading (probes/include/doubts.h).

Rules: the answer is the one that a walk gives that knew the lists, or there is none. None where a
list leads to anything but a chunk in doubt, where the row of chunks is damaged (lists help the walk
over that), and where links are not mangled (then nearly every word that is 0 or a pointer fits).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from allocscope.glibc import parts
from allocscope.glibc.abi import Abi
from allocscope.glibc.pieces import Piece, Surroundings
from allocscope.glibc.states import ArenaState
from allocscope.immutable import replace
from allocscope.model.walk import STOP_DEADLINE, FastLists


def fast_lists(abi: Abi, arena: ArenaState, rows: Sequence[tuple[int, int]]) -> FastLists:
    """What chunks in the arena's fastbins look like: those of the first one measure two headers,
    and of each further one a header more (fastbin_index in malloc.c). ``rows``: where its chunks
    lie, first chunk and limit of each row."""
    used = [number for number, head in enumerate(arena.fastbins) if head]
    sizes = tuple((number + 2) * abi.header_bytes for number in used)
    return FastLists(sizes, min(low for low, _ in rows), max(high for _, high in rows))


def walked_in_doubt(
    around: Surroundings,
    arena: ArenaState,
    rows: Sequence[tuple[int, int]],
    walk: Callable[[Surroundings], Sequence[Piece]],
) -> list[Piece] | None:
    """The arena's rows as ``walk`` reads them. A walk that the deadline ended follows no list: then
    chunks in doubt count as live."""
    if not rows:
        return None
    pieces = walk(replace(around, in_doubt=fast_lists(around.abi, arena, rows)))
    tallies = [piece.tally for piece in pieces]
    if any(tally.damage_count for tally in tallies):
        return None
    late = any(tally.stop_reason == STOP_DEADLINE for tally in tallies)
    found = around.walker.settle(tallies, [head for head in arena.fastbins if head and not late])
    if found is None:
        return None
    return [
        replace(piece, tally=parts.settled(piece.tally, more))
        for piece, more in zip(pieces, found, strict=True)
    ]
