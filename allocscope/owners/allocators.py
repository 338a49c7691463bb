"""Whose memory a mapping is, by what the memory itself shows.

Strategy: an allocator keeps a structure that leads from an address to what it knows of it. Where
that structure, found in the allocator's own data, leads to the mapping and back, the mapping is
its own. jemalloc 5 has a radix tree over all pages, whose leaves point to a descriptor that holds
the address; mimalloc 1 and 2 begin each segment with a header, in which the segment's address
stands, disguised by a key that the allocator keeps. And who names a mapping (prctl,
PR_SET_VMA_ANON_NAME) says that it is the owner.

Rules: a library that is loaded proves nothing; without a structure the owner is unknown. Only
pages that are there are read. glibc's arenas are not looked for here.

Source: jemalloc 5.3, rtree.h, edata.h, emap.h; mimalloc 2.0, types.h (mi_segment_t), segment.c
(mi_segment_is_valid); include/uapi/linux/prctl.h.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from allocscope.glibc.protocols import Memory
from allocscope.model.lazyfree import Owner
from allocscope.model.libc import MappedAllocator
from allocscope.model.owners import Claim
from allocscope.model.process import Mapping

UNKNOWN = Owner("unknown", "")
PAGE = 4096
WORD = 8
_MOST_DATA_BYTES = 16 << 20
_NAMED = "[anon:"


def owner_of(memory: Memory, mapping: Mapping, allocators: Sequence[Recogniser]) -> Owner:
    """The owner of one anonymous mapping, ``UNKNOWN`` where nothing in memory tells."""
    if mapping.path.startswith(_NAMED):
        name = mapping.path.removeprefix(_NAMED).removesuffix("]")
        return Owner(name, f"the mapping bears the name {name!r}, which its owner gave it")
    for allocator in allocators:
        evidence = allocator.evidence(memory, mapping)
        if evidence:
            return Owner(allocator.name, evidence)
    return UNKNOWN


def allocator_claims(
    memory: Memory,
    mappings: Sequence[Mapping],
    spans: Iterable[tuple[int, int]],
    known: Sequence[Recogniser],
) -> Iterator[Claim]:
    """Claims within ``spans`` (ascending): of each mapping in which such a structure was found,
    what nobody else owns."""
    found: dict[int, tuple[str, str]] = {}
    starts = [mapping.start for mapping in mappings]
    for start, end in spans if known else ():
        mapping = mappings[bisect_right(starts, start) - 1]
        if mapping.start not in found:
            owner = owner_of(memory, mapping, known)
            found[mapping.start] = owner.name, owner.evidence
        name, evidence = found[mapping.start]
        if name != UNKNOWN.name:
            yield Claim(start, end, "other-allocator", name, evidence)


def recognisers(
    memory: Memory, mappings: Sequence[Mapping], mapped: Sequence[MappedAllocator]
) -> list[Recogniser]:
    """One for each allocator in the process whose structures are known, in 64-bit programs only."""
    if memory.abi.word_bytes != WORD:
        return []
    kinds = {kind.name: kind for kind in (Jemalloc, Mimalloc)}
    return [
        kinds[found.name](memory, data_of(mappings, found.path))
        for found in mapped
        if found.name in kinds
    ]


def data_of(mappings: Sequence[Mapping], path: str) -> list[Mapping]:
    """The writable mappings of a file, with the anonymous ones right behind that hold its .bss."""
    data: list[Mapping] = []
    for mapping in mappings:
        own = mapping.path == path
        behind = bool(data) and mapping.anonymous and mapping.start == data[-1].end
        if mapping.writable and (own or (behind and not mapping.path)):
            data.append(mapping)
    return data


class Recogniser:
    """Knows the structures of one allocator in one process."""

    name = ""

    def __init__(self, memory: Memory, data: Sequence[Mapping]) -> None:
        self._words = dict(_words(memory, data))

    def evidence(self, memory: Memory, mapping: Mapping) -> str:
        """What ties the mapping to this allocator; "" for nothing."""
        raise NotImplementedError


class Jemalloc(Recogniser):
    """48-bit addresses: two levels of 18 bits each above the 12 of a page. The upper one is an
    array in .bss, an entry of which points to a leaf; a leaf's entry holds, besides flags, the
    address of a descriptor whose second word is the extent's first address."""

    name = "jemalloc"
    _LEVEL = (1 << 18) - 1
    _DESCRIPTOR = (1 << 48) - 128
    _PAGES_TRIED = 32
    _root: int | None = None

    def evidence(self, memory: Memory, mapping: Mapping) -> str:
        """An extent's first and last pages are in the tree, whether it is in use or not."""
        runs = memory.runs(mapping.start, mapping.end)
        edges = [page for start, end in runs for page in (start, end - PAGE)]
        for page in dict.fromkeys([mapping.start, *edges[: self._PAGES_TRIED]]):
            for root, leaf in self._leaves(page):
                descriptor = self._descriptor(memory, leaf, page)
                if descriptor:
                    self._root = root
                    return (
                        f"its radix tree at {root:#x} leads from page {page:#x} to the descriptor "
                        f"at {descriptor:#x}, which holds that address"
                    )
        return ""

    def _leaves(self, page: int) -> list[tuple[int, int]]:
        """Where the tree may begin, and the leaf that it then has for this page: one possibility
        once the tree is known, before that as many as there are pointers in jemalloc's data."""
        offset = WORD * (page >> 30 & self._LEVEL)
        if self._root is not None:
            return [(self._root, self._words.get(self._root + offset, 0))]
        return [
            (where - offset, word)
            for where, word in self._words.items()
            if PAGE <= word < 1 << 47 and word % 64 == 0
        ]

    def _descriptor(self, memory: Memory, leaf: int, page: int) -> int:
        """The descriptor that the leaf has for this page, if it agrees; else 0."""
        entry = _word(memory, leaf + WORD * (page >> 12 & self._LEVEL))
        descriptor = entry & self._DESCRIPTOR
        if not descriptor:
            return 0
        return descriptor if _word(memory, descriptor + WORD) & -PAGE == page else 0


class Mimalloc(Recogniser):
    """A segment begins at a multiple of its size, 32 MiB (4 MiB in version 1); a word of its
    header is its address XOR a random key that mimalloc's main heap keeps."""

    name = "mimalloc"
    _STEP = 4 << 20
    _SEGMENT = 32 << 20
    _HEADER_BYTES = 1024
    _NO_ADDRESS = 48
    _SEGMENTS_TRIED = 64

    def __init__(self, memory: Memory, data: Sequence[Mapping]) -> None:
        super().__init__(memory, data)
        self._keys = {word for word in self._words.values() if word >> self._NO_ADDRESS}

    def evidence(self, memory: Memory, mapping: Mapping) -> str:
        """The header may lie before the mapping, which protection can cut a segment into."""
        first = mapping.start & -self._SEGMENT
        starts = range(first, mapping.end, self._STEP)[: self._SEGMENTS_TRIED]
        found = memory.read_each(starts, self._HEADER_BYTES)
        for start, header in zip(starts, found, strict=True):
            if header is None or start + self._SEGMENT <= mapping.start:
                continue
            for index, word in enumerate(array("Q", header)):
                if word ^ start in self._keys:
                    return (
                        f"the segment header at {start:#x} holds, {WORD * index} bytes in, that "
                        "address under the key of mimalloc's main heap"
                    )
        return ""


def _words(memory: Memory, data: Sequence[Mapping]) -> Iterator[tuple[int, int]]:
    """The words that are not zero, with their addresses."""
    left = _MOST_DATA_BYTES
    for mapping in data:
        for start, end in memory.runs(mapping.start, mapping.end):
            size = min(end - start, left)
            left -= size
            for index, word in enumerate(array("Q", memory.read(start, size))):
                if word:
                    yield start + WORD * index, word


def _word(memory: Memory, address: int) -> int:
    [data] = memory.read_each([address], WORD)
    return 0 if data is None else int.from_bytes(data, "little")
