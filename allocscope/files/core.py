"""A core file as Memory and Walker, and as what it tells of the process it was.

Strategy: every segment's bytes are a span of the open file, and the walk is the one that reads live
processes. The file is read, not mapped: one that is cut off meanwhile must not end us by SIGBUS. A
page is there when the core holds all its bytes; whether it was resident, a core does not tell
(zeros.py).

Rules: everything in the file is hostile: what does not fit is BadInput (core_headers.py), and the
rest is read like any damaged heap.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from allocscope.errors import BadInput
from allocscope.files import core_headers
from allocscope.files.core_headers import PF_R, PF_W, PF_X, CoreSegment
from allocscope.files.spans import PRESENT
from allocscope.files.unpack import open_plain
from allocscope.files.zeros import ZERO, page_runs
from allocscope.model.process import Mapping
from allocscope.native import ffi, lib
from allocscope.native.memory import NativeMemory, failure
from allocscope.parse import core_notes
from allocscope.parse.core_notes import CoreNotes

USER_END = 1 << 48


class Core(NativeMemory):
    """Memory and Walker over an open core file; a context manager."""

    def __init__(self, path: Path, *, deadline_ns: int) -> None:
        """Opens ``path``, unpacked where it is compressed. ``deadline_ns``: CLOCK_MONOTONIC.

        Raises BadInput, and MissingPart for a compression that Python does not have."""
        self._file = open_plain(path, deadline_ns)
        try:
            headers = core_headers.read(path, self._file)
            self.segments, self.machine = headers.segments, headers.machine
            self.notes: CoreNotes = core_notes.parse(headers.notes, self.machine)
            held = [s for s in self.segments if s.held_end > s.start and s.end <= USER_END]
            self._spans = [(s.start, s.offset, s.held_end - s.start) for s in held]
            self._states = page_runs(self._file.fileno(), self._spans)
            super().__init__(self._open(self._states), f"core {path}")
        except BaseException:
            self._file.close()
            raise
        self.deadline_ns = deadline_ns

    def _open(self, runs: Sequence[tuple[int, int, int]]) -> Any:
        """The native source over the segments that the file holds, with these page states."""
        rows = [(start, size, ffi.cast("void *", offset)) for start, offset, size in self._spans]
        out = ffi.new("as_source **")
        code = lib.as_source_file(self._file.fileno(), rows, len(rows), list(runs), len(runs), out)
        if code:
            raise failure(code, "the core", "opening it")
        return out[0]

    def close(self) -> None:
        super().close()
        self._file.close()

    def at_most(self) -> NativeMemory:
        """The same memory as if every page that the core holds had been resident; to be closed, and
        before the core is."""
        return self._seen([(start, start + size, PRESENT) for start, _, size in self._spans])

    def without_zeros(self) -> NativeMemory:
        """The same memory without pages of zeros, as absent as in a process that never touched
        them; to be closed, and before the core is."""
        return self._seen([run for run in self._states if not run[2] & ZERO])

    def _seen(self, states: Sequence[tuple[int, int, int]]) -> NativeMemory:
        memory = NativeMemory(self._open(states), self.label)
        memory.deadline_ns, memory.abi = self.deadline_ns, self.abi
        return memory

    def require_whole(self) -> None:
        """Is everything that was read still there? BadInput when the file was cut off meanwhile."""
        needed = max(s.offset + s.file_bytes for s in self.segments)
        if os.fstat(self._file.fileno()).st_size < needed:
            raise BadInput(
                f"{self.label} became shorter while it was read",
                "Something still writes or truncates it: copy it first.",
            )

    def mappings(self) -> tuple[Mapping, ...]:
        """What the process had mapped, ascending, as /proc/PID/maps would tell it; a core does not
        tell device and inode, nor private from shared: inode 1 stands for any file."""
        files = sorted(self.notes.files, key=lambda file: file.start)
        found = []
        at = 0
        for segment in self.segments:
            while at < len(files) and files[at].end <= segment.start:
                at += 1
            inside = at < len(files) and files[at].start <= segment.start
            offset, path = 0, ""
            if inside:
                offset, path = files[at].offset + segment.start - files[at].start, files[at].path
            found.append(
                Mapping(
                    segment.start,
                    segment.end,
                    _permissions(segment.flags),
                    offset,
                    "00:00",
                    int(inside),
                    path,
                )
            )
        return tuple(found)

    def files_left_out(self) -> tuple[Mapping, ...]:
        """Mappings of files that the notes name and for which there is no segment, as gdb writes
        cores: of what can be read again from the file. Ascending; of their permissions nothing is
        told."""
        segments = sorted((s.start, s.end) for s in self.segments)
        starts = [start for start, _ in segments]
        found: list[Mapping] = []
        for file in sorted(self.notes.files, key=lambda file: file.start):
            index = bisect_right(starts, file.end - 1) - 1
            held = index >= 0 and segments[index][1] > file.start
            if not held and (not found or found[-1].end <= file.start):
                found.append(
                    Mapping(file.start, file.end, "???p", file.offset, "00:00", 1, file.path)
                )
        return tuple(found)

    @property
    def missing(self) -> tuple[CoreSegment, ...]:
        """Segments that the process could write and that the core does not hold whole."""
        return tuple(s for s in self.segments if s.flags & PF_W and s.held_end < s.end)


def _permissions(flags: int) -> str:
    letters = ((PF_R, "r"), (PF_W, "w"), (PF_X, "x"))
    return "".join(letter if flags & bit else "-" for bit, letter in letters) + "p"
