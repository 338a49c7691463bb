"""The answer of ``map``: all mappings, owner by owner."""

from __future__ import annotations

from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX
from allocscope.model.owners import Holding, OwnerKey


@immutable
class Sizes:
    """Sums over memory, in bytes. None: the kernel tells it only of a mapping that several owners
    share, or the file that was read does not tell it."""

    virtual_bytes: int
    resident_bytes: int | None
    private_dirty_bytes: int | None
    lazyfree_bytes: int | None
    swapped_bytes: int | None
    huge_bytes: int | None


@immutable
class Fill:
    """How full slabs of equal size are: resident of what is mapped. ``ratios``: the mean of up to
    eight equal parts of them, from the oldest to the newest; the kernel hands out addresses from
    the top, so the highest counts as the oldest. ``full_count``: how many are resident whole."""

    ratios: tuple[float, ...]
    full_count: int


@immutable
class MapRow:
    """What one owner has, or a run of slabs of equal size.

    ``slab_bytes`` is None where it is no run of slabs, ``fill`` also where nothing tells what is
    resident. ``part_count``: slabs, or
    pieces of address space with this owner. ``[start, end)`` spans all of them, whatever lies
    between."""

    key: OwnerKey
    owner: str
    start: int = field(metadata=HEX)
    end: int = field(metadata=HEX)
    part_count: int
    slab_bytes: int | None
    fill: Fill | None
    sizes: Sizes
    evidence: str


@immutable
class MapData:
    """``rows`` by category (OwnerKey), then by falling resident bytes; ``totals`` sums all of them.
    ``parts``: every mapping or part of one by itself, ascending, where it was asked for.
    ``rss_bytes``: None where nothing tells."""

    rss_bytes: int | None
    mapping_count: int
    rows: tuple[MapRow, ...]
    totals: Sizes
    parts: tuple[Holding, ...]
