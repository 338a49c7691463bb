"""What can be known of a process for next to nothing: the kernel's counters, the headers of
malloc's arenas, and ``mp_``. No page tables are walked, no chunk but the tops is looked at.

Rules: where malloc lies is not looked for in each glance, it never moves while the program runs;
but a program that has hardly begun fits several layouts, so whoever walks it has it found again.
Arenas that change while they are read are unknown in that glance, with a caveat.
"""

from __future__ import annotations

import zlib

from allocscope.app.target import find_malloc, look
from allocscope.errors import MemoryGap
from allocscope.glibc.par import parse_par
from allocscope.glibc.states import CHUNK_FLAGS, ArenaState, InvalidHeap, read_ring
from allocscope.model.report import Caveat
from allocscope.model.watch import ArenaGlance, Glance, MallocGlance
from allocscope.proc import cgroups, descriptors, procfs
from allocscope.proc.memory import ProcessMemory


class Glances:
    """Glances at one process, which must be known to be the same still."""

    def __init__(self, pid: int) -> None:
        """NoSuchProcess, PermissionRefused, NoGlibcHeap."""
        self._pid = pid
        self.find()

    def find(self) -> None:
        """Finds malloc again. NoSuchProcess, PermissionRefused, NoGlibcHeap."""
        target = look(self._pid)
        with ProcessMemory(self._pid) as memory:
            located, image = find_malloc(memory, target)
            self._abi = memory.abi
        rows = located.layouts
        self._main_arena, self._par = located.main_arena, located.par.address
        self._layout = next((row for row in rows if image.version in row.versions), rows[0])

    def take(self) -> tuple[Glance, tuple[Caveat, ...]]:
        """One glance, and what is to be said about it. NoSuchProcess, PermissionRefused."""
        status = procfs.status(self._pid)
        notes: tuple[Caveat, ...] = ()
        malloc: MallocGlance | None = None
        try:
            with ProcessMemory(self._pid) as memory:
                malloc = self._malloc(memory)
        except (InvalidHeap, MemoryGap) as error:
            text = f"The arenas changed while being read, so this sample has none: {error.message}."
            notes = (Caveat("arenas-in-motion", text),)
        glance = Glance(
            rss_bytes=status.rss_bytes,
            peak_rss_bytes=status.peak_rss_bytes,
            swap_bytes=status.swap_bytes,
            page_table_bytes=status.page_table_bytes,
            thread_count=procfs.stat(self._pid).thread_count,
            malloc=malloc,
            refault_count=cgroups.refault_count(self._pid),
            descriptor_count=descriptors.open_count(self._pid),
        )
        return glance, notes

    def _malloc(self, memory: ProcessMemory) -> MallocGlance:
        layout, memory.abi = self._layout, self._abi
        word = self._abi.word_bytes
        ring = read_ring(memory, self._main_arena, layout.state)
        par = parse_par(self._par, memory.read(self._par, layout.par.size), layout.par)
        heads = memory.read_each([state.top + word for state in ring], word)
        arenas = tuple(
            ArenaGlance(
                index=index,
                address=state.address,
                attached_threads=state.attached_threads,
                system_bytes=state.system_bytes,
                top_bytes=_top_bytes(state, head),
                header_crc32=zlib.crc32(state.raw),
            )
            for index, (state, head) in enumerate(zip(ring, heads, strict=True))
        )
        return MallocGlance(
            arenas=arenas,
            system_bytes=sum(arena.system_bytes for arena in arenas),
            mmapped_count=par.n_mmaps,
            mmapped_bytes=par.mmapped_mem,
        )


def _top_bytes(state: ArenaState, head: bytes | None) -> int | None:
    """The size of the top chunk by its header; an arena without memory has its top in itself."""
    if not state.system_bytes:
        return 0
    return None if head is None else int.from_bytes(head, "little") & ~CHUNK_FLAGS
