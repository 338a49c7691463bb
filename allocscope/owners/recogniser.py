"""What knows an allocator by the structures that it keeps, and the words of its own data, where
such structures begin.

Rules: only pages that are there are read, and of an allocator's data at most 16 MiB.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

from allocscope.glibc.protocols import Memory
from allocscope.model.process import Mapping

PAGE = 4096
WORD = 8
_MOST_DATA_BYTES = 16 << 20


class Recogniser:
    """Knows the structures of one allocator in one process. ``name``: whose memory it finds."""

    name = ""

    def __init__(self, memory: Memory, data: Sequence[Mapping]) -> None:
        found = words_of(memory, data)
        self._words = {address: word for address, word in found if self.keeps(word)}

    def keeps(self, word: int) -> bool:
        """Can this word of the allocator's data lead to a structure?"""
        raise NotImplementedError

    def evidence(self, memory: Memory, mapping: Mapping) -> str:
        """What ties the mapping to this allocator; "" for nothing."""
        raise NotImplementedError


def data_of(mappings: Sequence[Mapping], path: str) -> list[Mapping]:
    """The writable mappings of a file, with the anonymous ones right behind that hold its .bss."""
    data: list[Mapping] = []
    for mapping in mappings:
        own = mapping.path == path
        behind = bool(data) and mapping.anonymous and mapping.start == data[-1].end
        if mapping.writable and (own or (behind and not mapping.path)):
            data.append(mapping)
    return data


def words_of(memory: Memory, data: Sequence[Mapping]) -> Iterator[tuple[int, int]]:
    """The words that are not zero, with their addresses."""
    left = _MOST_DATA_BYTES
    for mapping in data:
        for start, end in memory.runs(mapping.start, mapping.end):
            size = min(end - start, left)
            left -= size
            for index, word in enumerate(array("Q", memory.read(start, size))):
                if word:
                    yield start + WORD * index, word
