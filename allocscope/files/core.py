"""A core file as Memory and Walker, and as what it tells of the process it was.

Strategy: the file is mapped read-only, and every segment's bytes are a span that points into it:
nothing is copied, and the walk is the one that reads live processes. A page is there when the core
holds all its bytes; whether it was resident, a core does not tell (zeros.py).

Rules: everything in the file is hostile: what does not fit is BadInput (core_headers.py), and the
rest is read like any damaged heap.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from allocscope.files import core_headers
from allocscope.files.core_headers import PF_R, PF_W, PF_X, CoreSegment
from allocscope.files.spans import SpanMemory
from allocscope.files.unpack import open_plain
from allocscope.files.zeros import page_runs
from allocscope.model.process import Mapping
from allocscope.parse import core_notes
from allocscope.parse.core_notes import CoreNotes

USER_END = 1 << 48


class Core(SpanMemory):
    """Memory and Walker over an open core file; a context manager."""

    def __init__(self, path: Path, *, deadline_ns: int) -> None:
        """Opens ``path``, unpacked where it is compressed. ``deadline_ns``: CLOCK_MONOTONIC.

        Raises BadInput, and MissingPart for a compression that Python does not have."""
        with open_plain(path, deadline_ns) as file:
            headers = core_headers.read(path, file)
            self.segments, self.machine = headers.segments, headers.machine
            self.notes: CoreNotes = core_notes.parse(headers.notes, self.machine)
            held = [s for s in self.segments if s.held_end > s.start and s.end <= USER_END]
            spans = [(s.start, s.offset, s.held_end - s.start) for s in held]
            runs = page_runs(file.fileno(), spans)
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        super().__init__(
            {start: content[offset : offset + size] for start, offset, size in spans},
            runs,
            f"core {path}",
        )
        self.deadline_ns = deadline_ns

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

    @property
    def missing(self) -> tuple[CoreSegment, ...]:
        """Segments that the process could write and that the core does not hold whole."""
        return tuple(s for s in self.segments if s.flags & PF_W and s.held_end < s.end)


def _permissions(flags: int) -> str:
    letters = ((PF_R, "r"), (PF_W, "w"), (PF_X, "x"))
    return "".join(letter if flags & bit else "-" for bit, letter in letters) + "p"
