"""A core file as Memory and Walker, and as what it tells of the process it was.

Strategy: the file is mapped read-only, and every segment's bytes are a span that points into it:
nothing is copied, and the walk is the one that reads live processes. A page is there when the core
holds all its bytes; whether it was resident, a core does not tell (zeros.py).

Rules: everything in the file is hostile. The headers are read with pyelftools, imported here and
on no other path; what it makes of damaged ones, and whatever does not fit the file, is BadInput.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
from pathlib import Path
from typing import Any, BinaryIO

from allocscope.errors import BadInput
from allocscope.files.spans import PAGE, SpanMemory
from allocscope.files.unpack import open_plain
from allocscope.files.zeros import page_runs
from allocscope.model.process import Mapping
from allocscope.parse import core_notes
from allocscope.parse.core_notes import CoreNotes

USER_END = 1 << 47
_MOST_SEGMENTS = 1 << 18
_MOST_NOTE_BYTES = 1 << 30
_HEADER_BYTES = 56
_PF_X, _PF_W, _PF_R = 1, 2, 4
_NO_CORE = "Give a core file of a 64-bit x86 program, as the kernel or gdb's gcore writes it."


@dataclasses.dataclass(frozen=True, slots=True)
class CoreSegment:
    """A PT_LOAD header: ``[start, start + memory_bytes)``, of which the core holds the first
    ``file_bytes``, at ``offset`` in the file."""

    start: int
    memory_bytes: int
    offset: int
    file_bytes: int
    flags: int

    @property
    def end(self) -> int:
        return self.start + self.memory_bytes

    @property
    def held_end(self) -> int:
        """The end of the pages that the core holds whole."""
        return self.start + self.file_bytes // PAGE * PAGE


class Core(SpanMemory):
    """Memory and Walker over an open core file; a context manager."""

    def __init__(self, path: Path, *, deadline_ns: int) -> None:
        """Opens ``path``, unpacked where it is compressed. ``deadline_ns``: CLOCK_MONOTONIC.

        Raises BadInput, and MissingPart for a compression that Python does not have."""
        with open_plain(path, deadline_ns) as file:
            size = os.fstat(file.fileno()).st_size
            self.segments, notes = _headers(path, file, size)
            self.notes: CoreNotes = core_notes.parse(notes)
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        held = [s for s in self.segments if s.held_end > s.start and s.end <= USER_END]
        view = memoryview(content)
        super().__init__(
            {s.start: view[s.offset : s.offset + s.held_end - s.start] for s in held},
            page_runs(content, [(s.start, s.offset, s.held_end - s.start) for s in held]),
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
            offset, path = (files[at].offset, files[at].path) if inside else (0, "")
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
        return tuple(s for s in self.segments if s.flags & _PF_W and s.held_end < s.end)


def _permissions(flags: int) -> str:
    letters = ((_PF_R, "r"), (_PF_W, "w"), (_PF_X, "x"))
    return "".join(letter if flags & bit else "-" for bit, letter in letters) + "p"


def _headers(path: Path, file: BinaryIO, size: int) -> tuple[tuple[CoreSegment, ...], bytes]:
    """The loaded segments, ascending, and the bytes of all notes."""
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(file)
        _require_core(path, elf)
        count, table = elf.num_segments(), int(elf["e_phoff"])
        if count > _MOST_SEGMENTS or elf["e_phentsize"] != _HEADER_BYTES:
            raise BadInput(f"{path} has {count} program headers of {elf['e_phentsize']} bytes")
        if table + count * _HEADER_BYTES > size:
            raise _truncated(path, table + count * _HEADER_BYTES, size)
        headers = [elf.get_segment(number).header for number in range(count)]
    except BadInput:
        raise
    except Exception as error:  # pyelftools lets many kinds out of damaged headers
        what = f"{path} cannot be read as an ELF file: {error or type(error).__name__}"
        raise BadInput(what, _NO_CORE) from error
    segments = [
        CoreSegment(h["p_vaddr"], h["p_memsz"], h["p_offset"], h["p_filesz"], h["p_flags"])
        for h in headers
        if h["p_type"] == "PT_LOAD" and h["p_memsz"]
    ]
    noted = [(h["p_offset"], h["p_filesz"]) for h in headers if h["p_type"] == "PT_NOTE"]
    _require_sound(path, segments, noted, size)
    return tuple(sorted(segments, key=lambda s: s.start)), _read_notes(path, file, noted)


def _require_core(path: Path, elf: Any) -> None:
    if elf["e_type"] != "ET_CORE":
        raise BadInput(f"{path} is an ELF file, but no core", _NO_CORE)
    if elf["e_machine"] != "EM_X86_64" or elf.elfclass != 64 or not elf.little_endian:
        what = f"{elf.get_machine_arch()}, {elf.elfclass}-bit"
        raise BadInput(f"{path} is a core of another machine ({what})", _NO_CORE)


def _require_sound(
    path: Path, segments: list[CoreSegment], noted: list[tuple[int, int]], size: int
) -> None:
    ends = [s.offset + s.file_bytes for s in segments if s.file_bytes]
    needed = max(ends + [offset + length for offset, length in noted], default=0)
    if needed > size:
        raise _truncated(path, needed, size)
    if not segments:
        raise BadInput(f"{path} holds no memory", _NO_CORE)
    end = 0
    for segment in sorted(segments, key=lambda s: s.start):
        odd = segment.start % PAGE or segment.memory_bytes % PAGE
        if odd or segment.start < end or segment.file_bytes > segment.memory_bytes:
            raise BadInput(
                f"{path} is damaged: its segment at {segment.start:#x} overlaps another one, "
                "or is not made of pages"
            )
        end = segment.end


def _truncated(path: Path, needed: int, size: int) -> BadInput:
    return BadInput(
        f"{path} is truncated: its headers tell of {needed} bytes, it has {size}",
        "Was the disk full, or the core limited (ulimit -c)?",
    )


def _read_notes(path: Path, file: BinaryIO, noted: list[tuple[int, int]]) -> bytes:
    if sum(length for _, length in noted) > _MOST_NOTE_BYTES:
        raise BadInput(f"{path} is damaged: its notes are larger than any process's")
    data = b""
    for offset, length in noted:
        file.seek(offset)
        data += file.read(length)
    return data
