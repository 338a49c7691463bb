"""The memory that a later reading of the same malloc needs, beside the chunks that the walk passes.

Strategy: a reading knows where everything lies: the library's data, arena and heap headers, the
tcaches, the threads' words that point to them, headers of chunks with mappings of their own. What
the reading validated is handed out as it was read then.

Rule: structure, no payload. Of thread-local storage only pointers to arenas and tcaches; of a
static program, whose data are its own, only malloc's two variables.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from allocscope.errors import MemoryGap
from allocscope.glibc.locate import read_areas
from allocscope.glibc.mmapped import header_of
from allocscope.glibc.protocols import Memory
from allocscope.glibc.reading import HeapReading
from allocscope.glibc.threads import STATIC_TLS_BYTES, Tcache, tls_words

Span = tuple[int, bytes]
PAGE = 4096
BLOCK_BYTES = 1 << 20


def structure(
    memory: Memory,
    reading: HeapReading,
    thread_pointers: Iterable[int],
    data_spans: Sequence[tuple[int, int]],
) -> Iterator[Span]:
    """``(address, bytes)``, whole words, later ones overwriting earlier ones. ``data_spans``: the
    library's writable memory; empty for a static program."""
    yield from read_areas(memory, data_spans)
    yield from _read(memory, reading.par.address, _words(reading.par.layout.size))
    yield from _headers(memory, reading)
    yield from _tcaches(memory, reading)
    yield from _thread_words(memory, reading, thread_pointers)
    yield from _mmapped(memory, reading)


def contents(memory: Memory, reading: HeapReading) -> Iterator[Span]:
    """All present pages of all arenas, a MiB at a time."""
    for item in reading.arenas:
        for piece in item.pieces:
            start, end = piece.start // PAGE * PAGE, -(-piece.end // PAGE) * PAGE
            for low, high in memory.runs(start, end):
                for at in range(low, high, BLOCK_BYTES):
                    yield from _read(memory, at, min(BLOCK_BYTES, high - at))


def _words(size: int) -> int:
    return -(-size // WORD) * WORD


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
            yield from _read(memory, tcache.address - WORD, WORD)
            yield tcache.address, tcache.raw.ljust(_words(len(tcache.raw)), b"\0")
            yield from _keys(memory, tcache)
    pieces = sorted((p.start, p.end) for item in reading.arenas for p in item.pieces)
    for chunk in reading.parked.chunks:
        index = bisect_right(pieces, (chunk, 1 << 64)) - 1
        if index < 0 or chunk >= pieces[index][1]:
            yield from _read(memory, chunk + WORD, 2 * WORD)


def _keys(memory: Memory, tcache: Tcache) -> Iterator[Span]:
    """The second words of the first chunks of a tcache's lists, where they are its address: they
    tell its layout. Others may be what the program wrote."""
    places = [head + WORD for head in tcache.heads if head]
    address = tcache.address.to_bytes(WORD, "little")
    for place, key in zip(places, memory.read_each(places, WORD), strict=True):
        if key == address:
            yield place, key


def _thread_words(
    memory: Memory, reading: HeapReading, thread_pointers: Iterable[int]
) -> Iterator[Span]:
    wanted = {item.state.address for item in reading.arenas}
    wanted |= {t.tcache.address for t in reading.threads if t.tcache is not None}
    for pointer in thread_pointers:
        itself = pointer.to_bytes(WORD, "little")
        yield pointer, itself
        yield pointer + 2 * WORD, itself
        words = tls_words(memory, pointer)
        for offset, word in words.items():
            if word in wanted and -STATIC_TLS_BYTES <= offset < 0:
                yield pointer + offset, word.to_bytes(WORD, "little")


def _mmapped(memory: Memory, reading: HeapReading) -> Iterator[Span]:
    for start, end in reading.mmapped:
        address, data = header_of(memory, start, end, reading.layout.mmap_size_is_usable)
        if data:
            yield address, data
