"""The headers of a core file: its segments, and where its notes are.

Strategy: pyelftools, imported here and on no other path, reads and judges the file's own header
(class, machine, kind, how many program headers); the table of program headers is read in one go.

Rules: everything in the file is hostile. What pyelftools makes of a damaged header, and whatever
does not fit the file, is BadInput.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from allocscope.errors import BadInput
from allocscope.files.spans import PAGE
from allocscope.immutable import immutable
from allocscope.model.libc import AARCH64, I386, X86_64

PF_X, PF_W, PF_R = 1, 2, 4
_PT_LOAD, _PT_NOTE = 1, 4
_HEADERS = {64: struct.Struct("<IIQQQQQQ"), 32: struct.Struct("<8I")}
_MACHINES = {("EM_X86_64", 64): X86_64, ("EM_386", 32): I386, ("EM_AARCH64", 64): AARCH64}
_MOST_SEGMENTS = 1 << 18
_MOST_NOTE_BYTES = 1 << 30
_NO_CORE = (
    "Give a core file of a program for x86-64, i386 or aarch64, as the kernel or gdb's gcore "
    "writes it."
)


@immutable
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


@immutable
class CoreHeaders:
    """The loaded segments, ascending, the bytes of all notes, and what machine the program was for
    (model.libc)."""

    segments: tuple[CoreSegment, ...]
    notes: bytes
    machine: str


def read(path: Path, file: BinaryIO) -> CoreHeaders:
    """The headers of the open ``file``; ``path`` names it in errors. Raises BadInput."""
    from elftools.elf.elffile import ELFFile

    size = os.fstat(file.fileno()).st_size
    try:
        elf = ELFFile(file)
        machine = _require_core(path, elf)
        header = _HEADERS[elf.elfclass]
        count, table = elf.num_segments(), int(elf["e_phoff"])
        if count > _MOST_SEGMENTS or elf["e_phentsize"] != header.size:
            raise BadInput(f"{path} has {count} program headers of {elf['e_phentsize']} bytes")
        if table + count * header.size > size:
            raise _truncated(path, table + count * header.size, size)
    except BadInput:
        raise
    except Exception as error:  # pyelftools lets many kinds out of damaged headers
        what = f"{path} cannot be read as an ELF file: {error or type(error).__name__}"
        raise BadInput(what, _NO_CORE) from error
    segments, noted = [], []
    file.seek(table)
    # one by one, pyelftools takes seconds for the tens of thousands that there can be
    for fields in header.iter_unpack(file.read(count * header.size)):
        if elf.elfclass == 64:
            kind, flags, offset, start, _, held, length, _ = fields
        else:
            kind, offset, start, _, held, length, flags, _ = fields
        if kind == _PT_LOAD and length:
            segments.append(CoreSegment(start, length, offset, held, flags))
        elif kind == _PT_NOTE:
            noted.append((offset, held))
    _require_sound(path, segments, noted, size)
    ascending = tuple(sorted(segments, key=lambda s: s.start))
    return CoreHeaders(ascending, _read_notes(path, file, noted), machine)


def _require_core(path: Path, elf: Any) -> str:
    """The machine's name."""
    if elf["e_type"] != "ET_CORE":
        raise BadInput(f"{path} is an ELF file, but no core", _NO_CORE)
    machine = _MACHINES.get((elf["e_machine"], elf.elfclass))
    if machine is None or not elf.little_endian:
        what = f"{elf.get_machine_arch()}, {elf.elfclass}-bit"
        raise BadInput(f"{path} is a core of another machine ({what})", _NO_CORE)
    return machine


def _require_sound(
    path: Path, segments: list[CoreSegment], noted: list[tuple[int, int]], size: int
) -> None:
    ends = [s.offset + s.file_bytes for s in segments if s.file_bytes]
    needed = max(ends + [offset + length for offset, length in noted], default=0)
    if needed > size:
        raise _truncated(path, needed, size)
    if not segments:
        raise BadInput(f"{path} holds no memory", _NO_CORE)
    if sum(s.file_bytes for s in segments) > size:
        raise BadInput(f"{path} is damaged: its segments share their bytes")
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
