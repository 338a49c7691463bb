"""Whose memory a mapping is, by what the memory itself shows.

Strategy: an allocator keeps a structure that leads from an address to what it knows of it. Where
that structure, found in the allocator's own data, leads to the mapping and back, the mapping is
its own: page_maps.py and mimalloc.py know such structures. And who names a mapping (prctl,
PR_SET_VMA_ANON_NAME) says that it is the owner.

Rules: a library that is loaded proves nothing; without a structure the owner is unknown. Only
pages that are there are read. glibc's arenas are not looked for here.

Source: include/uapi/linux/prctl.h.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from allocscope.glibc.protocols import Memory
from allocscope.model.lazyfree import Owner
from allocscope.model.libc import MappedAllocator
from allocscope.model.owners import Claim
from allocscope.model.process import Mapping
from allocscope.owners.mimalloc import Mimalloc
from allocscope.owners.page_maps import Jemalloc, Tcmalloc
from allocscope.owners.recogniser import WORD, Recogniser, data_of

UNKNOWN = Owner("unknown", "")
_NAMED = "[anon:"
_KINDS = {kind.name: kind for kind in (Jemalloc, Mimalloc, Tcmalloc)}


def allocator_claims(
    memory: Memory,
    mappings: Sequence[Mapping],
    spans: Iterable[tuple[int, int]],
    known: Sequence[Recogniser],
) -> Iterator[Claim]:
    """Claims within ``spans`` (ascending): of each mapping in which such a structure was found,
    what nobody else owns."""
    found: dict[int, Claim | None] = {}
    starts = [mapping.start for mapping in mappings]
    for start, end in spans:
        mapping = mappings[bisect_right(starts, start) - 1]
        if mapping.start not in found:
            found[mapping.start] = _claim(memory, mapping, known)
        claim = found[mapping.start]
        if claim is not None:
            yield Claim(start, end, claim.key, claim.owner, claim.evidence)


def _claim(memory: Memory, mapping: Mapping, known: Sequence[Recogniser]) -> Claim | None:
    for allocator in known:
        evidence = allocator.evidence(memory, mapping)
        if evidence:
            return Claim(mapping.start, mapping.end, "other-allocator", allocator.name, evidence)
    return None


def name_of(mapping: Mapping) -> Owner:
    """Who gave an anonymous mapping its name; ``UNKNOWN`` where it has none."""
    if not mapping.path.startswith(_NAMED):
        return UNKNOWN
    name = mapping.path.removeprefix(_NAMED).removesuffix("]").strip()
    return Owner(name, f"the mapping bears the name {name!r}, which its owner gave it")


def recognisers(
    memory: Memory, mappings: Sequence[Mapping], mapped: Sequence[MappedAllocator]
) -> list[Recogniser]:
    """One for each allocator in the process whose structures are known, in 64-bit programs only."""
    if memory.abi.word_bytes != WORD:
        return []
    return [
        _KINDS[found.name](memory, data_of(mappings, found.path))
        for found in mapped
        if found.name in _KINDS
    ]
