"""What ``record --with-contents`` keeps of memory beside the arenas, and where it is found again:
the stacks and the data of programs and libraries, which point at chunks, and the first page of each
of their files, whose build-id tells which file it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from allocscope.errors import MemoryGap
from allocscope.glibc.protocols import Memory
from allocscope.model.owners import OwnerKey
from allocscope.model.process import Mapping
from allocscope.model.recording import Ownership
from allocscope.owners.mapped import by_mapping, files_of

PAGE = 4096
BLOCK_BYTES = 1 << 20
_DATA: frozenset[OwnerKey] = frozenset({"thread-stacks", "program-data"})

Span = tuple[int, int]


def data_spans(mappings: Sequence[Mapping], owned: Ownership) -> list[Span]:
    """Stacks and data, ascending, none overlapping another."""
    files = files_of(mappings, owned.tmpfs_devices)
    spans = [(claim.start, claim.end) for claim in owned.claims if claim.key in _DATA]
    for mapping in mappings:
        whose = by_mapping(mapping, files, mapping.start, mapping.end)
        if mapping.readable and mapping.writable and mapping.private and whose.key in _DATA:
            spans.append((mapping.start, mapping.end))
    found: list[Span] = []
    for start, end in sorted(spans):
        begin = max(start, found[-1][1]) if found else start
        if begin < end:
            found.append((begin, end))
    return found


def first_pages(mappings: Sequence[Mapping], owned: Ownership) -> list[Span]:
    """Of all programs and libraries."""
    programs = files_of(mappings, owned.tmpfs_devices).programs
    return [
        (mapping.start, mapping.start + PAGE)
        for mapping in mappings
        if mapping.inode and not mapping.offset and mapping.readable and mapping.path in programs
    ]


def contents_beside(
    memory: Memory, mappings: Sequence[Mapping], owned: Ownership
) -> Iterator[tuple[int, bytes]]:
    """``(address, bytes)`` of all present pages of both, a MiB at a time."""
    for start, end in (*data_spans(mappings, owned), *first_pages(mappings, owned)):
        for low, high in memory.runs(start // PAGE * PAGE, -(-end // PAGE) * PAGE):
            for at in range(low, high, BLOCK_BYTES):
                try:
                    yield at, memory.read(at, min(BLOCK_BYTES, high - at))
                except MemoryGap:
                    continue
