"""Mappings gathered by owner, and runs of equal slabs folded into one row.

Strategy: neighbouring parts that one claim covers (the used and the reserved half of a thread
heap) are one piece; pieces of one owner are one row. Pieces whose owners differ only by a number
(stacks of threads, heaps of arenas) or that nobody names are slabs if at least FEWEST of them have
the same size: they become one row that tells how full they are, from the oldest to the newest.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from typing import get_args

from allocscope.immutable import immutable
from allocscope.model.mapview import Fill, MapData, MapRow, Sizes
from allocscope.model.owners import HeapKey, Holding, OwnerKey, RowKey

ORDER: tuple[OwnerKey, ...] = (*get_args(HeapKey), *get_args(RowKey))
FEWEST = 4
PARTS_OF_FILL = 8
_NUMBER = re.compile(r"\b\d+\b")
_OF_FILES = frozenset({"file-private", "file-shared", "program-data"})


@immutable
class Piece:
    """Neighbouring parts with the same owner for the same reason."""

    parts: tuple[Holding, ...]

    @property
    def start(self) -> int:
        return self.parts[0].start

    @property
    def end(self) -> int:
        return self.parts[-1].end

    @property
    def virtual_bytes(self) -> int:
        return self.end - self.start

    @property
    def resident_bytes(self) -> int | None:
        return known_sum(part.resident_bytes for part in self.parts)


def map_data(holdings: Sequence[Holding], rss_bytes: int | None, *, raw: bool) -> MapData:
    """All rows. ``raw``: with every part by itself. ``rss_bytes``: None where nothing tells."""
    return MapData(
        rss_bytes=rss_bytes,
        mapping_count=len({holding.mapping_index for holding in holdings}),
        rows=tuple(map_rows(holdings)),
        totals=sizes_of(holdings),
        parts=tuple(holdings) if raw else (),
    )


def map_rows(holdings: Sequence[Holding]) -> list[MapRow]:
    """By category, then by falling resident bytes, or by size where these are not known.
    ``holdings`` ascending."""
    rows = [row for group in _groups(pieces(holdings)) for row in _rows(group)]
    rows.sort(key=lambda row: (ORDER.index(row.key), *(-n for n in weight(row.sizes)), row.start))
    return rows


def weight(sizes: Sizes) -> tuple[int, int]:
    """By what the largest is found: resident bytes; where these are not known, size."""
    if sizes.resident_bytes is None:
        return 0, sizes.virtual_bytes
    return sizes.resident_bytes, 0


def pieces(holdings: Iterable[Holding]) -> list[Piece]:
    """Neighbours of one owner joined; ``holdings`` ascending. Each large chunk stays by itself."""
    runs: list[list[Holding]] = []
    for part in holdings:
        if runs and _joins(runs[-1][-1], part):
            runs[-1].append(part)
        else:
            runs.append([part])
    return [Piece(tuple(run)) for run in runs]


def _joins(last: Holding, part: Holding) -> bool:
    if last.end != part.start or last.key != part.key or part.key == "glibc-mmapped":
        return False
    return (last.owner, last.evidence) == (part.owner, part.evidence)


def kind_of(owner: str) -> str:
    """An owner without its numbers: "stack of thread 17" is one of the stacks of threads."""
    return _NUMBER.sub("N", owner)


def _groups(found: Iterable[Piece]) -> list[list[Piece]]:
    """Pieces of one category and kind."""
    groups: dict[tuple[OwnerKey, str], list[Piece]] = {}
    for piece in found:
        first = piece.parts[0]
        kind = first.owner if first.key in _OF_FILES else kind_of(first.owner)
        groups.setdefault((first.key, kind), []).append(piece)
    return list(groups.values())


def slabs(group: Iterable[Piece]) -> dict[int, list[Piece]]:
    """Of one kind, the runs of at least FEWEST pieces of equal size, by that size; the oldest
    (highest) first."""
    by_size: dict[int, list[Piece]] = {}
    for piece in group:
        by_size.setdefault(piece.virtual_bytes, []).append(piece)
    return {
        size: sorted(run, key=lambda piece: -piece.start)
        for size, run in by_size.items()
        if len(run) >= FEWEST
    }


def _rows(group: Sequence[Piece]) -> Iterable[MapRow]:
    if group[0].parts[0].key in _OF_FILES:
        yield _row(group)
        return
    runs = slabs(group)
    for size, run in runs.items():
        yield _row(run, slab_bytes=size)
    owners: dict[str, list[Piece]] = {}
    for piece in group:
        if piece.virtual_bytes not in runs:
            owners.setdefault(piece.parts[0].owner, []).append(piece)
    for rest in owners.values():
        yield _row(rest)


def _row(of: Sequence[Piece], slab_bytes: int | None = None) -> MapRow:
    first = of[0].parts[0]
    one_owner = len({piece.parts[0].owner for piece in of}) == 1
    return MapRow(
        key=first.key,
        owner=first.owner if one_owner else kind_of(first.owner),
        start=min(piece.start for piece in of),
        end=max(piece.end for piece in of),
        part_count=len(of),
        slab_bytes=slab_bytes,
        fill=None if slab_bytes is None else fill_of(of),
        sizes=sizes_of(part for piece in of for part in piece.parts),
        evidence=first.evidence,
    )


def fill_of(run: Sequence[Piece]) -> Fill | None:
    """Of slabs of equal size, the oldest first; None where it is not known of one of them."""
    there = [piece.resident_bytes for piece in run]
    filled = [resident for resident in there if resident is not None]
    if len(filled) < len(run):
        return None
    count = min(PARTS_OF_FILL, len(run))
    edges = [len(run) * i // count for i in range(count + 1)]
    ratios = []
    for low, high in itertools.pairwise(edges):
        mapped = sum(piece.virtual_bytes for piece in run[low:high])
        ratios.append(sum(filled[low:high]) / mapped)
    full = sum(piece.resident_bytes == piece.virtual_bytes for piece in run)
    return Fill(tuple(ratios), full)


def known_sum(values: Iterable[int | None]) -> int | None:
    """What is unknown of one part is unknown of all."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def sizes_of(parts: Iterable[Holding | Sizes]) -> Sizes:
    """Their sums."""
    rows = list(parts)
    return Sizes(
        virtual_bytes=sum(part.virtual_bytes for part in rows),
        resident_bytes=known_sum(part.resident_bytes for part in rows),
        private_dirty_bytes=known_sum(part.private_dirty_bytes for part in rows),
        lazyfree_bytes=known_sum(part.lazyfree_bytes for part in rows),
        swapped_bytes=known_sum(part.swapped_bytes for part in rows),
        huge_bytes=known_sum(part.huge_bytes for part in rows),
    )
