"""The memory that a later reading of the same malloc needs, beside the chunks that the walk passes.

Strategy: a reading knows where everything lies: the library's data, arena and heap headers, the
tcaches, the threads' words that point to them, headers of chunks with mappings of their own. What
the reading validated is handed out as it was read then.

Rule: structure, no payload. Of thread-local storage only pointers to arenas and tcaches; of a
static program, whose data are its own, only malloc's two variables.
"""

from __future__ import annotations

import itertools
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from allocscope.errors import MemoryGap
from allocscope.glibc.locate import read_areas
from allocscope.glibc.mmapped import header_of
from allocscope.glibc.protocols import Memory
from allocscope.glibc.reading import HeapReading
from allocscope.glibc.threads import Tcache, tls_words

Span = tuple[int, bytes]
PAGE = 4096
BLOCK_BYTES = 1 << 20
KEPT_BYTES = 8
"""A recording is made of words of 8 bytes, whatever the program's are."""
PREV_INUSE = 1


def structure(
    memory: Memory,
    reading: HeapReading,
    thread_pointers: Iterable[int],
    data_spans: Sequence[tuple[int, int]],
) -> Iterator[Span]:
    """``(address, bytes)``, whole words, later ones overwriting earlier ones. ``data_spans``: the
    library's writable memory; empty for a static program."""
    parts = (
        read_areas(memory, data_spans),
        _read(memory, reading.par.address, _words(reading.par.layout.size)),
        _headers(memory, reading),
        _tcaches(memory, reading),
        _thread_words(memory, reading, thread_pointers),
        _mmapped(memory, reading),
    )
    spans = itertools.chain.from_iterable(parts)
    yield from spans if memory.abi.word_bytes == KEPT_BYTES else _widened(spans)


def _widened(spans: Iterable[Span]) -> Iterator[Span]:
    """The same spans of a 32-bit program in words of 8 bytes; what lies beside them in such a word
    is zero."""
    words: dict[int, bytearray] = {}
    for start, data in spans:
        for at in range(start // KEPT_BYTES * KEPT_BYTES, start + len(data), KEPT_BYTES):
            word = words.setdefault(at, bytearray(KEPT_BYTES))
            low, high = max(at, start), min(at + KEPT_BYTES, start + len(data))
            word[low - at : high - at] = data[low - start : high - start]
    for at, word in words.items():
        yield at, bytes(word)


def contents(memory: Memory, reading: HeapReading) -> Iterator[Span]:
    """All present pages of all arenas, a MiB at a time."""
    for item in reading.arenas:
        for piece in item.pieces:
            start, end = piece.start // PAGE * PAGE, -(-piece.end // PAGE) * PAGE
            for low, high in memory.runs(start, end):
                for at in range(low, high, BLOCK_BYTES):
                    yield from _read(memory, at, min(BLOCK_BYTES, high - at))


def _words(size: int) -> int:
    return -(-size // KEPT_BYTES) * KEPT_BYTES


def _read(memory: Memory, address: int, size: int) -> Iterator[Span]:
    try:
        yield address, memory.read(address, size)
    except MemoryGap:
        return


def _headers(memory: Memory, reading: HeapReading) -> Iterator[Span]:
    for item in reading.arenas:
        for piece in item.pieces:
            if piece.header_bytes:
                yield from _read(memory, piece.start, piece.header_bytes + piece.alignment_bytes)
        state = item.state
        data = struct.pack("<I", state.lock_word) + state.raw
        yield state.address, data.ljust(_words(len(data)), b"\0")


def _tcaches(memory: Memory, reading: HeapReading) -> Iterator[Span]:
    """The structs, and what they hold that lies in no arena."""
    for thread in reading.threads:
        if thread.tcache is not None:
            tcache = thread.tcache
            yield from _size_word(memory, tcache.chunk)
            yield tcache.address, tcache.raw.ljust(_words(len(tcache.raw)), b"\0")
            yield from _keys(memory, tcache)
    pieces = sorted((p.start, p.end) for item in reading.arenas for p in item.pieces)
    for chunk in reading.parked.chunks:
        index = bisect_right(pieces, (chunk, 1 << 64)) - 1
        if index < 0 or chunk >= pieces[index][1]:
            yield from _size_word(memory, chunk)
            yield from _read(memory, chunk + memory.abi.header_bytes, memory.abi.word_bytes)


def _size_word(memory: Memory, chunk: int) -> Iterator[Span]:
    """A chunk's header; without prev_size where that belongs to the chunk before."""
    word = memory.abi.word_bytes
    for start, header in _read(memory, chunk, memory.abi.header_bytes):
        if memory.abi.word(header, word) & PREV_INUSE:
            yield start + word, header[word:]
        else:
            yield start, header


def _keys(memory: Memory, tcache: Tcache) -> Iterator[Span]:
    """The link and the key of the first chunks of a tcache's lists, where the key is its address:
    they tell its layout. Others may be what the program wrote."""
    word = memory.abi.word_bytes
    places = [head for head in tcache.heads if head]
    for place, data in zip(places, memory.read_each(places, 2 * word), strict=True):
        if data is not None and memory.abi.word(data, word) == tcache.address:
            yield place, data


def _thread_words(
    memory: Memory, reading: HeapReading, thread_pointers: Iterable[int]
) -> Iterator[Span]:
    wanted = {item.state.address for item in reading.arenas}
    wanted |= {t.tcache.address for t in reading.threads if t.tcache is not None}
    size = memory.abi.word_bytes
    for pointer in thread_pointers:
        if not memory.abi.tls_above:
            itself = pointer.to_bytes(size, "little")
            yield pointer, itself
            yield pointer + 2 * size, itself
        for offset, word in tls_words(memory, pointer).items():
            if word in wanted:
                yield pointer + offset, word.to_bytes(size, "little")


def _mmapped(memory: Memory, reading: HeapReading) -> Iterator[Span]:
    for start, end in reading.mmapped:
        address, data = header_of(memory, start, end, reading.layout.mmap_size_is_usable)
        if data:
            yield address, data
