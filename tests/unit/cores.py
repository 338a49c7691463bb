"""Core files, written byte by byte: of anything, or of a made-up malloc. Source: elf(5), the
kernel's fs/binfmt_elf.c."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence

from unit.heaps import PAGE, PRESENT
from unit.mallocs import LIBC_DATA, Malloc, up

R, W, X = 4, 2, 1
ET_CORE, EM_X86_64 = 4, 62
PT_LOAD, PT_NOTE = 1, 4
NT_PRSTATUS, NT_PRPSINFO, NT_AUXV, NT_FILE = 1, 3, 6, 0x46494C45
AT_ENTRY = 9
LIBC_PATH = "/usr/lib/libc.so.6"


@dataclasses.dataclass(frozen=True)
class Segment:
    """``data`` is what the core holds of ``[start, start + size)``."""

    start: int
    size: int
    data: bytes
    flags: int = R | W


def note(kind: int, content: bytes, name: bytes = b"CORE\0") -> bytes:
    data = struct.pack("<III", len(name), len(content), kind)
    return data + name.ljust(up(len(name), 4), b"\0") + content.ljust(up(len(content), 4), b"\0")


def prstatus(tid: int, thread_pointer: int) -> bytes:
    content = bytearray(336)
    struct.pack_into("<i", content, 32, tid)
    struct.pack_into("<Q", content, 112 + 21 * 8, thread_pointer)
    return note(NT_PRSTATUS, bytes(content))


def prpsinfo(pid: int, name: bytes) -> bytes:
    content = bytearray(136)
    struct.pack_into("<i", content, 24, pid)
    content[40 : 40 + len(name)] = name
    return note(NT_PRPSINFO, bytes(content))


def auxv(entry: int) -> bytes:
    return note(NT_AUXV, struct.pack("<4Q", AT_ENTRY, entry, 0, 0))


def file_note(files: Sequence[tuple[int, int, str]]) -> bytes:
    rows = b"".join(struct.pack("<3Q", start, end, 0) for start, end, _ in files)
    names = b"".join(path.encode() + b"\0" for _, _, path in files)
    return note(NT_FILE, struct.pack("<QQ", len(files), PAGE) + rows + names)


def core(
    segments: Sequence[Segment],
    notes: bytes = b"",
    *,
    kind: int = ET_CORE,
    machine: int = EM_X86_64,
) -> bytes:
    """The file: headers, notes, then the segments' bytes."""
    count = len(segments) + 1
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH", kind, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0
    )
    at = 64 + 56 * count
    table = struct.pack("<IIQQQQQQ", PT_NOTE, R, at, 0, 0, len(notes), 0, 1)
    at += len(notes)
    for s in segments:
        table += struct.pack(
            "<IIQQQQQQ", PT_LOAD, s.flags, at, s.start, 0, len(s.data), s.size, PAGE
        )
        at += len(s.data)
    return header + table + notes + b"".join(segment.data for segment in segments)


def of_malloc(malloc: Malloc, *, more_files: Sequence[tuple[int, int, str]] = ()) -> bytes:
    """The core of a written made-up malloc. Of each run of pages it holds those up to the last that
    is present."""
    libc = (LIBC_DATA, LIBC_DATA + 2 * PAGE)
    segments = [held(malloc, start, end) for start, end in sorted([*malloc.spans, libc])]
    notes = prpsinfo(100, b"made-up") + auxv(0x401000)
    notes += b"".join(prstatus(t.tid, t.tcb) for t in malloc.threads)
    return core(segments, notes + file_note([(*libc, LIBC_PATH), *more_files]))


def held(malloc: Malloc, start: int, end: int) -> Segment:
    low, high = start // PAGE, up(end, PAGE) // PAGE
    image = malloc.image
    last = max((n for n in range(low, high) if image.states.get(n, 0) & PRESENT), default=low - 1)
    pages = (image.pages.get(n, bytes(PAGE)) for n in range(low, last + 1))
    return Segment(low * PAGE, (high - low) * PAGE, b"".join(map(bytes, pages)))
