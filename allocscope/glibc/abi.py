"""What the target's machine decides of malloc: how wide a word is, how chunks are aligned, how
large heaps and pages are, on which side of the thread pointer thread-local storage lies.

Rule: everything that differs between a 64-bit and a 32-bit malloc follows from these few numbers,
as it does in glibc's source (``SIZE_SZ``, ``MALLOC_ALIGNMENT``, ``MINSIZE``, ``HEAP_MAX_SIZE``,
``NFASTBINS``); nothing is written down twice. Source: malloc/malloc.c, malloc/arena.c,
sysdeps/generic/malloc-alignment.h, sysdeps/i386/malloc-alignment.h (4e61a6be44, 2.26), nptl's
tls.h of each machine.
"""

from __future__ import annotations

import struct

from allocscope.immutable import immutable
from allocscope.model.libc import AARCH64, I386, X86_64


@immutable
class Abi:
    """``word_bytes``: of a pointer and of size_t, 8 or 4. ``alignment``: of what malloc returns.
    ``page_bytes``: 4096, on aarch64 also 16384 or 65536. ``tls_above``: thread-local storage lies
    above the thread pointer, which does not point to itself (TLS variant I)."""

    word_bytes: int = 8
    alignment: int = 16
    page_bytes: int = 4096
    tls_above: bool = False

    @property
    def header_bytes(self) -> int:
        """Of a chunk: prev_size and size. What malloc returns lies behind it."""
        return 2 * self.word_bytes

    @property
    def min_chunk_bytes(self) -> int:
        return 4 * self.word_bytes

    @property
    def slack_bytes(self) -> int:
        """At the end of a page, behind where the last chunk can end (i386 from 2.26 on: 8)."""
        return -self.header_bytes % self.alignment

    @property
    def heap_max_bytes(self) -> int:
        """HEAP_MAX_SIZE, which is also how the heaps of thread arenas are aligned."""
        return 64 << 20 if self.word_bytes == 8 else 1 << 20

    @property
    def arenas_per_cpu(self) -> int:
        """NARENAS_FROM_NCORES (2.17 to 2.43); ``arena_test`` starts with the same number."""
        return 8 if self.word_bytes == 8 else 2

    @property
    def fastbin_count(self) -> int:
        """NFASTBINS; a fastbin is half an alignment wide on i386 from 2.26 on."""
        largest = self.chunk_bytes(20 * self.word_bytes)  # MAX_FAST_SIZE
        return largest // self.header_bytes - 1

    def chunk_bytes(self, wanted_bytes: int) -> int:
        """The chunk that malloc makes of a request (request2size)."""
        padded = wanted_bytes + self.word_bytes + self.alignment - 1
        return max(padded // self.alignment * self.alignment, self.min_chunk_bytes)

    def is_chunk(self, address: int) -> bool:
        """May a chunk begin here?"""
        return (address + self.header_bytes) % self.alignment == 0

    def first_chunk(self, address: int) -> int:
        """The first place from ``address`` on where a chunk may begin."""
        return address + -(address + self.header_bytes) % self.alignment

    def word(self, data: bytes, offset: int = 0) -> int:
        """The unsigned word at ``offset``. struct.error where there is none."""
        return int(struct.unpack_from("<Q" if self.word_bytes == 8 else "<I", data, offset)[0])

    def words(self, data: bytes, offset: int, count: int) -> tuple[int, ...]:
        """``count`` words from ``offset`` on. struct.error where there are fewer."""
        return struct.unpack_from(f"<{count}{'Q' if self.word_bytes == 8 else 'I'}", data, offset)

    def view(self, data: bytes) -> memoryview[int]:
        """All whole words, without a copy."""
        whole = memoryview(data)[: len(data) // self.word_bytes * self.word_bytes]
        return whole.cast("Q") if self.word_bytes == 8 else whole.cast("I")


WIDE = Abi()
NARROW = Abi(word_bytes=4)
NARROW_TO_2_25 = Abi(word_bytes=4, alignment=8)


def of_machine(machine: str, page_bytes: int = 4096) -> Abi | None:
    """What is known of a process by its machine alone; None for one that allocscope does not
    know."""
    known = {
        X86_64: WIDE,
        I386: NARROW,
        AARCH64: Abi(page_bytes=page_bytes, tls_above=True),
    }
    return known.get(machine)
