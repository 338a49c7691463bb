"""What glibc's malloc holds free in a process, from headers alone: quick enough for every process
of a host.

Strategy: no chunk is walked. The arenas say where their bins and their top are; the lists of the
bins are followed, and each free chunk's size read. Of a chunk that covers whole pages, those that
are absent are taken off; what else it has is resident, since its own header and the next chunk's
are. Where malloc lies is searched once for each set of program and libraries: the next process that
has mapped the same files has its main arena at the same place in the same one.

Rules: thread caches and fastbins are left out; a process that changes meanwhile gives an
approximate figure; what cannot be read is None, never 0. A place that is remembered must hold a
sound arena in this process too, and its ring must close; else malloc is searched for. Where there
could be several mallocs nothing is remembered: which one is in use is each process's own matter.

Source: malloc/malloc.c, struct malloc_chunk, struct malloc_state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from allocscope.app.target import find_malloc, look
from allocscope.errors import AllocscopeError, MemoryGap
from allocscope.glibc.abi import Abi
from allocscope.glibc.invariants import state_faults
from allocscope.glibc.layouts import StateLayout
from allocscope.glibc.marks import longest_list
from allocscope.glibc.states import CHUNK_FLAGS, ArenaState, InvalidHeap, read_ring
from allocscope.immutable import immutable
from allocscope.model.process import Mapping
from allocscope.native.memory import NativeMemory
from allocscope.proc import procfs
from allocscope.proc.memory import ProcessMemory

PAGE = 4096

_File = tuple[str, int]
"""A mapped file: device and inode."""


@immutable
class _Place:
    """Where malloc lay in a process: so far behind the first mapping of a file."""

    file: _File
    offset: int
    layout: StateLayout
    abi: Abi


class Retained:
    """Asked about one process after the other."""

    def __init__(self) -> None:
        self._places: dict[frozenset[_File], _Place] = {}

    def bytes_of(self, pid: int) -> int | None:
        """Resident bytes in the bins and tops of all arenas of ``pid``; None where there is no
        glibc heap that can be read, or no right to read it."""
        try:
            mappings = procfs.mappings(pid)
            with ProcessMemory(pid) as memory:
                ring, layout = self._known(memory, mappings) or self._searched(memory, pid)
                return retained_bytes(memory, ring, layout)
        except AllocscopeError:
            return None

    def _known(
        self, memory: ProcessMemory, mappings: Sequence[Mapping]
    ) -> tuple[list[ArenaState], StateLayout] | None:
        place = self._places.get(_code(mappings))
        starts = [] if place is None else _starts(mappings, place.file)
        if place is None or len(starts) != 1:
            return None
        memory.abi = place.abi
        try:
            ring = read_ring(memory, starts[0] + place.offset, place.layout)
        except (InvalidHeap, MemoryGap):
            return None
        sound = not any(state_faults(ring[0], place.layout))
        return (ring, place.layout) if sound else None

    def _searched(self, memory: ProcessMemory, pid: int) -> tuple[list[ArenaState], StateLayout]:
        target = look(pid)
        located, image = find_malloc(memory, target)
        layout = located.layout.state
        if len(target.images) == 1:
            first = image.mappings[0]
            self._places[_code(target.mappings)] = _Place(
                file=(first.device, first.inode),
                offset=located.main_arena - first.start,
                layout=layout,
                abi=memory.abi,
            )
        return read_ring(memory, located.main_arena, layout), layout


def _code(mappings: Sequence[Mapping]) -> frozenset[_File]:
    """The program and its libraries."""
    return frozenset((m.device, m.inode) for m in mappings if m.inode and m.perms[2] == "x")


def _starts(mappings: Sequence[Mapping], file: _File) -> list[int]:
    """Where a file is mapped from its beginning on; more than once after dlmopen."""
    return [m.start for m in mappings if (m.device, m.inode) == file and not m.offset]


def retained_bytes(memory: NativeMemory, ring: Sequence[ArenaState], layout: StateLayout) -> int:
    """Resident bytes in the bins and tops of these arenas. Raises MemoryGap."""
    return _resident(memory, [*_in_bins(memory, ring, layout), *_tops(ring)])


def _in_bins(
    memory: NativeMemory, ring: Sequence[ArenaState], layout: StateLayout
) -> Iterator[int]:
    heads = [head for state in ring for head in state.bin_heads(layout)]
    lists = memory.chase(
        [fd for _, fd, _ in heads],
        link_offset=memory.abi.header_bytes,
        mangled=False,
        limit=longest_list(ring, memory.abi),
        ends=[here for here, _, _ in heads],
    )
    return (chunk for found, _ in lists for chunk in found)


def _tops(ring: Sequence[ArenaState]) -> Iterator[int]:
    return (state.top for state in ring if state.initialised and state.system_bytes)


def _resident(memory: NativeMemory, chunks: Sequence[int]) -> int:
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
