"""Memory of which only some words are known: what a recording is read through.

Rule: what was present and is not among the words reads as zero; what was not present is not there.
The heap's walk looks at headers and links only, so it finds here what it found in the process.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Sequence

from allocscope.errors import BadInput
from allocscope.model.walk import Words
from allocscope.native import ffi, lib
from allocscope.native.memory import NativeMemory, failure

PAGE = 4096
WORD = 8
PAGE_STRUCT = struct.Struct("<9Q")
RUN_STRUCT = struct.Struct("<3Q")
_GROUP = (1 << 64) - 1


def pack(spans: Iterable[tuple[int, bytes]]) -> Words:
    """Bytes at addresses as words; addresses and lengths are multiples of 8. Later spans overwrite
    earlier ones."""
    pages, words = bytearray(), bytearray()
    for start, data in spans:
        if start % WORD or len(data) % WORD:
            raise ValueError(f"span at {start:#x} is not made of words")
        words += data
        at, end = start, start + len(data)
        while at < end:
            page = at // PAGE * PAGE
            beyond = min(page + PAGE, end)
            mask = (1 << (beyond - page) // WORD) - (1 << (at - page) // WORD)
            pages += PAGE_STRUCT.pack(page, *(mask >> 64 * group & _GROUP for group in range(8)))
            at = beyond
    return Words(bytes(pages), bytes(words))


class WordMemory(NativeMemory):
    """Memory and Walker over recorded words."""

    def __init__(self, layers: Sequence[Words], runs: bytes, label: str) -> None:
        """``layers``: a later one overwrites an earlier one. ``runs``: page states, as_run after
        as_run, ascending.

        BadInput when they do not fit together."""
        pages = b"".join(layer.pages for layer in layers)
        words = b"".join(layer.words for layer in layers)
        if len(pages) % PAGE_STRUCT.size or len(words) % WORD or len(runs) % RUN_STRUCT.size:
            raise BadInput(f"{label} ends within a word")
        self._held = (
            ffi.from_buffer("as_page[]", pages),
            ffi.from_buffer("uint64_t[]", words),
            ffi.from_buffer("as_run[]", runs),
        )
        out = ffi.new("as_source **")
        sizes = (len(pages) // PAGE_STRUCT.size, len(words) // WORD, len(runs) // RUN_STRUCT.size)
        code = lib.as_source_words(
            self._held[0], sizes[0], self._held[1], sizes[1], self._held[2], sizes[2], out
        )
        if code == errno.EINVAL:
            raise BadInput(f"the memory in {label} contradicts its page states")
        if code:
            raise failure(code, label, "opening it")
        super().__init__(out[0], label)
