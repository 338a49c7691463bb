"""mimalloc 1 and 2: each segment begins with a header that holds its own address, disguised.

Source: mimalloc 2.0, types.h (mi_segment_t), segment.c (mi_segment_is_valid).
"""

from __future__ import annotations

from array import array

from allocscope.glibc.protocols import Memory
from allocscope.model.process import Mapping
from allocscope.owners.recogniser import WORD, Recogniser


class Mimalloc(Recogniser):
    """A segment begins at a multiple of its size, 32 MiB (4 MiB in version 1); a word of its
    header is its address XOR a random key that mimalloc's main heap keeps."""

    name = "mimalloc"
    _STEP = 4 << 20
    _SEGMENT = 32 << 20
    _HEADER_BYTES = 1024
    _NO_ADDRESS = 48
    _SEGMENTS_TRIED = 64

    def keeps(self, word: int) -> bool:
        return word >> self._NO_ADDRESS != 0

    def evidence(self, memory: Memory, mapping: Mapping) -> str:
        """The header may lie before the mapping, which protection can cut a segment into."""
        keys = set(self._words.values())
        first = mapping.start & -self._SEGMENT
        starts = range(first, mapping.end, self._STEP)[: self._SEGMENTS_TRIED]
        found = memory.read_each(starts, self._HEADER_BYTES)
        for start, header in zip(starts, found, strict=True):
            if header is None or start + self._SEGMENT <= mapping.start:
                continue
            for index, word in enumerate(array("Q", header)):
                if word ^ start in keys:
                    return (
                        f"the segment header at {start:#x} holds, {WORD * index} bytes in, that "
                        "address under the key of mimalloc's main heap"
                    )
        return ""
