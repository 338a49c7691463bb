"""What glibc's malloc holds free in a process, from headers alone: quick enough for every process
of a host.

Strategy: no chunk is walked. The arenas say where their bins and their top are; the lists of the
bins are followed, and each free chunk's size read. Of a chunk that covers whole pages, those that
are absent are taken off; what else it has is resident, since its own header and the next chunk's
are. Rules: thread caches and fastbins are left out; a process that changes meanwhile gives an
approximate figure; what cannot be read is None, never 0.

Source: malloc/malloc.c, struct malloc_chunk, struct malloc_state.
"""

from __future__ import annotations

from collections.abc import Iterator

from allocscope.app.target import find_malloc, look
from allocscope.errors import AllocscopeError
from allocscope.glibc.marks import longest_list
from allocscope.glibc.states import CHUNK_FLAGS, ArenaState, read_ring
from allocscope.proc.memory import ProcessMemory

PAGE = 4096


def retained_bytes(pid: int) -> int | None:
    """Resident bytes in the bins and tops of all arenas of ``pid``; None where there is no glibc
    heap that can be read, or no right to read it."""
    try:
        target = look(pid)
        with ProcessMemory(pid) as memory:
            located, _ = find_malloc(memory, target)
            layout = located.layout.state
            ring = read_ring(memory, located.main_arena, layout)
            heads = [head for state in ring for head in state.bin_heads(layout)]
            lists = memory.chase(
                [fd for _, fd, _ in heads],
                link_offset=memory.abi.header_bytes,
                mangled=False,
                limit=longest_list(ring, memory.abi),
                ends=[here for here, _, _ in heads],
            )
            chunks = [chunk for found, _ in lists for chunk in found] + list(_tops(ring))
            return _resident(memory, chunks)
    except AllocscopeError:
        return None


def _tops(ring: list[ArenaState]) -> Iterator[int]:
    return (state.top for state in ring if state.initialised and state.system_bytes)


def _resident(memory: ProcessMemory, chunks: list[int]) -> int:
    word_bytes = memory.abi.word_bytes
    words = memory.read_each([chunk + word_bytes for chunk in chunks], word_bytes)
    sizes = [int.from_bytes(word or b"", "little") & ~CHUNK_FLAGS for word in words]
    inner = []
    for chunk, size in zip(chunks, sizes, strict=True):
        first, last = -(-chunk // PAGE) * PAGE, (chunk + size) // PAGE * PAGE
        if first < last:
            inner.append((first, last))
    whole = sum(end - start for start, end in inner)
    return sum(sizes) - whole + memory.residency_in(inner).resident_bytes
