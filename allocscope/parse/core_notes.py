"""The notes of a core file: who the process was, its threads, and which files it had mapped.

Strategy: all PT_NOTE bytes come in, frozen facts go out. Rules: sizes and counts are the file's
word and bound nothing by themselves: what would reach beyond its note is left out, so a damaged
note costs what it said and nothing else. x86-64 only.

Source: elf(5); the kernel's fs/binfmt_elf.c (``fill_note_info``, ``fill_files_note``) and
include/linux/elfcore.h; gdb writes the same notes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from allocscope.immutable import immutable

NT_PRSTATUS, NT_PRPSINFO, NT_AUXV, NT_FILE = 1, 3, 6, 0x46494C45

_PRSTATUS_BYTES = 336
_PR_PID = 32
_FS_BASE = 112 + 21 * 8  # pr_reg, then the 22nd register of user_regs_struct
_PRPSINFO_BYTES = 136
_PSINFO_PID, _PSINFO_NAME = 24, 40
_NAME_BYTES = 16
_AT_ENTRY = 9
_MOST_NOTES = 1 << 20
_MOST_FILES = 1 << 18


@immutable
class CoreThread:
    """One thread; ``thread_pointer`` is its fs_base."""

    tid: int
    thread_pointer: int


@immutable
class CoreFileMapping:
    """``[start, end)`` was a mapping of the file ``path`` from ``offset`` bytes on."""

    start: int
    end: int
    offset: int
    path: str


@immutable
class CoreNotes:
    """``pid`` is 0 and ``comm`` "" where the core does not tell; ``entry``: where the program
    starts, 0 unknown."""

    pid: int
    comm: str
    entry: int
    threads: tuple[CoreThread, ...]
    files: tuple[CoreFileMapping, ...]


def parse(data: bytes) -> CoreNotes:
    """The facts in the bytes of all PT_NOTE segments, one behind the other."""
    pid, comm, entry = 0, "", 0
    threads: dict[int, CoreThread] = {}
    files: tuple[CoreFileMapping, ...] = ()
    for kind, content in _notes(data):
        if kind == NT_PRSTATUS and len(content) >= _PRSTATUS_BYTES:
            thread = _thread(content)
            threads.setdefault(thread.tid, thread)
        elif kind == NT_PRPSINFO and len(content) >= _PRPSINFO_BYTES:
            (pid,) = struct.unpack_from("<i", content, _PSINFO_PID)
            comm = _text(content[_PSINFO_NAME : _PSINFO_NAME + _NAME_BYTES].split(b"\0", 1)[0])
        elif kind == NT_AUXV:
            entry = _entry(content)
        elif kind == NT_FILE:
            files = _files(content)
    return CoreNotes(max(pid, 0), comm, entry, tuple(threads.values()), files)


def _notes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of the notes that the kernel calls CORE."""
    at = 0
    for _ in range(_MOST_NOTES):
        if at + 12 > len(data):
            return
        name_size, content_size, kind = struct.unpack_from("<III", data, at)
        content_at = at + 12 + _rounded(name_size)
        if content_at + content_size > len(data):
            return
        if data[at + 12 : at + 12 + name_size] == b"CORE\0":
            yield kind, data[content_at : content_at + content_size]
        at = content_at + _rounded(content_size)


def _thread(content: bytes) -> CoreThread:
    (tid,) = struct.unpack_from("<i", content, _PR_PID)
    (thread_pointer,) = struct.unpack_from("<Q", content, _FS_BASE)
    return CoreThread(tid, thread_pointer)


def _entry(content: bytes) -> int:
    for kind, value in struct.iter_unpack("<QQ", content[: len(content) // 16 * 16]):
        if kind == _AT_ENTRY:
            return int(value)
    return 0


def _files(content: bytes) -> tuple[CoreFileMapping, ...]:
    if len(content) < 16:
        return ()
    count, unit = struct.unpack_from("<QQ", content, 0)
    count = min(count, _MOST_FILES, (len(content) - 16) // 24)
    names = content[16 + 24 * count :].split(b"\0")[:count]
    rows = struct.iter_unpack("<QQQ", content[16 : 16 + 24 * count])
    return tuple(
        CoreFileMapping(start, end, offset * unit, _text(name))
        for (start, end, offset), name in zip(rows, names, strict=False)
        if start < end
    )


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _rounded(size: int) -> int:
    return (size + 3) & ~3
