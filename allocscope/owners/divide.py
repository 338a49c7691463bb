"""Mappings divided among their owners, each part with its figures.

Strategy: claims are laid over the mappings of one reading of smaps; what they leave of a mapping
falls to the owner that the kernel names (a file, [stack], [vdso]), and anonymous memory that nobody
names is unexplained. A mapping with one owner keeps the kernel's own figures; one with several is
counted page by page, by byte where a page is shared.

Rules: where claims overlap, the earlier one in the list keeps the memory; parts never overlap, and
together they are exactly the mappings.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

from allocscope.immutable import replace
from allocscope.model.owners import Claim, Holding
from allocscope.model.process import SmapsEntry
from allocscope.model.walk import Residency
from allocscope.owners.mapped import Files, by_mapping

PAGE = 4096

Resident = Callable[[int, int], Residency]
"""Page states of ``[start, end)``, whole pages."""


def disjoint(claims: Iterable[Claim]) -> list[Claim]:
    """The claims, cut so that none overlaps an earlier one, ascending."""
    ranked = list(claims)
    edges = sorted((claim.start, rank) for rank, claim in enumerate(ranked))
    if _apart([ranked[rank] for _, rank in edges]):
        return [ranked[rank] for _, rank in edges]
    kept: list[Claim] = []
    for claim in ranked:
        kept += _less(claim, kept)
    return sorted(kept, key=lambda claim: claim.start)


def _apart(ascending: Sequence[Claim]) -> bool:
    return all(one.end <= other.start for one, other in itertools.pairwise(ascending))


def _less(claim: Claim, taken: Sequence[Claim]) -> list[Claim]:
    """What is left of a claim where others took their part."""
    left = []
    start = claim.start
    touching = (one for one in taken if one.start < claim.end and one.end > claim.start)
    for other in sorted(touching, key=lambda one: one.start):
        if other.start > start:
            left.append(_cut(claim, start, other.start))
        start = max(start, other.end)
    if start < claim.end:
        left.append(_cut(claim, start, claim.end))
    return left


def _cut(claim: Claim, start: int, end: int) -> Claim:
    return Claim(start, end, claim.key, claim.owner, claim.evidence)


def divide(
    entries: Sequence[SmapsEntry], claims: Iterable[Claim], files: Files, resident: Resident
) -> tuple[Holding, ...]:
    """Every mapping, part by part, ascending. ``resident`` is asked for mappings of several
    owners."""
    sorted_claims = disjoint(claims)
    holdings: list[Holding] = []
    first = 0
    for index, entry in enumerate(entries):
        mapping = entry.mapping
        while first < len(sorted_claims) and sorted_claims[first].end <= mapping.start:
            first += 1
        inside: list[Claim] = []
        for claim in sorted_claims[first:]:
            if claim.start >= mapping.end:
                break
            inside.append(_cut(claim, max(claim.start, mapping.start), min(claim.end, mapping.end)))
        holdings += _holdings(index, entry, _filled(entry, inside, files), resident)
    return tuple(holdings)


def _filled(entry: SmapsEntry, claims: Sequence[Claim], files: Files) -> list[Claim]:
    """The claims inside a mapping, and the mapping's own owner for what they leave; neighbours of
    one owner joined."""
    mapping = entry.mapping
    parts: list[Claim] = []
    start = mapping.start
    for claim in claims:
        if claim.start > start:
            parts.append(by_mapping(mapping, files, start, claim.start))
        parts.append(claim)
        start = claim.end
    if start < mapping.end:
        parts.append(by_mapping(mapping, files, start, mapping.end))
    return parts


def _holdings(
    index: int, entry: SmapsEntry, parts: Sequence[Claim], resident: Resident
) -> Iterable[Holding]:
    mapping = entry.mapping
    whole = len(parts) == 1
    all_dirty = entry.private_dirty_bytes == entry.rss_bytes
    for part in parts:
        if whole or not entry.rss_bytes:
            there, huge = entry.rss_bytes, entry.anon_huge_bytes
            dirty: int | None = entry.private_dirty_bytes
            lazyfree: int | None = entry.lazyfree_bytes
        else:
            states = by_byte(resident, part.start, part.end)
            there, huge = states.resident_bytes, states.huge_bytes
            dirty = there if all_dirty else None
            lazyfree = None if entry.lazyfree_bytes else 0
        swapped: int | None = entry.swap_bytes
        if not whole and entry.swap_bytes:
            swapped = by_byte(resident, part.start, part.end).swapped_bytes
        yield Holding(
            start=part.start,
            end=part.end,
            key=part.key,
            owner=part.owner,
            evidence=part.evidence,
            perms=mapping.perms,
            path=mapping.path,
            mapping_index=index,
            whole=whole,
            resident_bytes=there,
            private_dirty_bytes=dirty,
            lazyfree_bytes=lazyfree,
            swapped_bytes=swapped,
            huge_bytes=huge,
        )


def without_figures(part: Holding) -> Holding:
    """The same where nothing tells what of it is resident."""
    return replace(
        part,
        resident_bytes=None,
        private_dirty_bytes=None,
        lazyfree_bytes=None,
        swapped_bytes=None,
        huge_bytes=None,
    )


def by_byte(resident: Resident, start: int, end: int) -> Residency:
    """Page states of ``[start, end)``; of a page at its edges only the bytes inside."""
    low, high = -(-start // PAGE) * PAGE, end // PAGE * PAGE
    if low > high:  # within one page
        return _scaled(resident(high, high + PAGE), end - start)
    inner = resident(low, high) if low < high else Residency(0, 0, 0, 0)
    if start < low:
        inner = _sum(inner, _scaled(resident(low - PAGE, low), low - start))
    if high < end:
        inner = _sum(inner, _scaled(resident(high, high + PAGE), end - high))
    return inner


def _scaled(page: Residency, size: int) -> Residency:
    """``size`` bytes of one page."""
    return Residency(
        size if page.resident_bytes else 0,
        size if page.swapped_bytes else 0,
        size if page.huge_bytes else 0,
        size if page.zero_bytes else 0,
    )


def _sum(one: Residency, other: Residency) -> Residency:
    return Residency(
        one.resident_bytes + other.resident_bytes,
        one.swapped_bytes + other.swapped_bytes,
        one.huge_bytes + other.huge_bytes,
        one.zero_bytes + other.zero_bytes,
    )
