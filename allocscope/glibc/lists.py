"""What glibc's own functions would count in this memory: the lists, followed as malloc_info and
int_mallinfo follow them, the one by fd and the other by bk.

Where an arena's lists hold exactly what the walk found
(:func:`allocscope.glibc.validate.lists_match`), the walk's sums are these counts. Where an
operation was under way at the instant of a snapshot they are not, and then the lists themselves are
followed, so that glibc and we look at the same thing. A list into which a chunk is just being
linked may lead nowhere, or round in a circle; glibc, following it, would crash or never come back,
so :func:`closed` is asked first. Source: malloc/malloc.c, ``__malloc_info``, ``int_mallinfo``.
"""

from __future__ import annotations

from collections.abc import Sequence

from allocscope.glibc.layouts import StateLayout
from allocscope.glibc.marks import longest_list
from allocscope.glibc.protocols import Memory
from allocscope.glibc.reading import HeapReading
from allocscope.glibc.states import CHUNK_FLAGS, ArenaState
from allocscope.glibc.validate import ArenaReading
from allocscope.model.glibc_says import ArenaLists, ProcessLists

FD, BK = 2, 3
"""Where a free chunk has its links, in words."""


def _size_words(memory: Memory, chunks: list[int]) -> list[int]:
    word = memory.abi.word_bytes
    found = memory.read_each([chunk + word for chunk in chunks], word)
    return [0 if data is None else int.from_bytes(data, "little") for data in found]


def _sizes(memory: Memory, chunks: list[int]) -> list[int]:
    return [word & ~CHUNK_FLAGS for word in _size_words(memory, chunks)]


def _chased(
    memory: Memory, state: ArenaState, layout: StateLayout, link: int
) -> list[tuple[Sequence[int], bool]]:
    """Every bin's chunks, followed by ``link`` (FD or BK), and whether they lead back to it."""
    heads = state.bin_heads(layout)
    return memory.chase(
        [fd if link == FD else bk for _, fd, bk in heads],
        link_offset=link * memory.abi.word_bytes,
        mangled=False,
        limit=longest_list([state], memory.abi),
        ends=[here for here, _, _ in heads],
    )


def binned(memory: Memory, state: ArenaState, layout: StateLayout, link: int) -> list[int]:
    """The size words of the chunks in all bins, followed by ``link``."""
    lists = _chased(memory, state, layout, link)
    return _size_words(memory, [chunk for found, _ in lists for chunk in found])


def closed(memory: Memory, state: ArenaState, layout: StateLayout) -> bool:
    """Do all bins' lists lead back to their bins, forward and backward? (A fastbin's next chunk is
    linked before the bin leads to it, so fastbins are always whole.)"""
    return all(whole for link in (FD, BK) for _, whole in _chased(memory, state, layout, link))


def _fast(memory: Memory, state: ArenaState, safe_linking: bool) -> tuple[int, int]:
    """Each fastbin counts as many times its first chunk's size as it has chunks."""
    heads = [head for head in state.fastbins if head]
    lists = memory.chase(
        heads,
        link_offset=FD * memory.abi.word_bytes,
        mangled=safe_linking,
        limit=longest_list([state], memory.abi),
    )
    counts = [len(found) for found, _ in lists]
    sizes = _sizes(memory, heads)
    return sum(counts), sum(c * s for c, s in zip(counts, sizes, strict=True))


def arena_lists(memory: Memory, item: ArenaReading, reading: HeapReading) -> ArenaLists:
    """One arena as glibc would count it."""
    state = item.state
    tallies = [piece.tally for piece in item.pieces]
    if item.problems or state.lock_word:  # the flags of a chunk that is being handed out may be set
        forward = binned(memory, state, reading.layout.state, FD)
        backward = binned(memory, state, reading.layout.state, BK)
        bin_count, bin_words = len(forward), sum(forward)
        bin_bytes = sum(word & ~CHUNK_FLAGS for word in forward)
        back_bytes = sum(word & ~CHUNK_FLAGS for word in backward)
        fast_count, fast_bytes = _fast(memory, state, reading.safe_linking)
    else:
        bin_count, bin_bytes = sum(t.bin_count for t in tallies), sum(t.bin_bytes for t in tallies)
        bin_words, back_bytes = bin_bytes + bin_count, bin_bytes
        fast_count = sum(t.fastbin_count for t in tallies)
        fast_bytes = sum(t.fastbin_bytes for t in tallies)
    aspace = sum(heap.size for heap in item.heaps) or state.system_bytes
    mprotect = sum(heap.mprotect_size for heap in item.heaps) or state.system_bytes
    return ArenaLists(
        index=item.index,
        bin_count=bin_count,
        bin_bytes=bin_bytes,
        bin_word_bytes=bin_words,
        bin_back_bytes=back_bytes,
        fast_count=fast_count,
        fast_bytes=fast_bytes,
        top_bytes=sum(_sizes(memory, [state.top])) if state.initialised else 0,
        system_bytes=state.system_bytes,
        max_system_bytes=state.max_system_bytes,
        aspace_bytes=aspace,
        aspace_mprotect_bytes=mprotect,
        subheap_count=max(1, len(item.heaps)),
    )


def process_lists(memory: Memory, reading: HeapReading) -> ProcessLists:
    """All arenas, and ``mp_``'s counters."""
    par = reading.par
    return ProcessLists(
        arenas=tuple(arena_lists(memory, item, reading) for item in reading.arenas),
        has_fastbins=reading.layout.state.fastbins is not None,
        mmap_count=par.n_mmaps,
        mmap_bytes=par.mmapped_mem,
        max_mmap_count=par.max_n_mmaps,
        max_mmap_bytes=par.max_mmapped_mem,
    )


def in_use_bytes(reading: HeapReading) -> int:
    """Bytes of all arenas that the walk found neither in a bin, nor in a fastbin, nor in a top."""
    tallies = [piece.tally for item in reading.arenas for piece in item.pieces]
    free = sum(t.fastbin_bytes + t.bin_bytes + t.top_bytes for t in tallies)
    return sum(item.state.system_bytes for item in reading.arenas) - free
