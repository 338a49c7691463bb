"""The notes of a core file: who the process was, its threads, and which files it had mapped.

Strategy: all PT_NOTE bytes come in, frozen facts go out. Where the fields lie depends on the
machine, and is a row of a table. Rules: sizes and counts are the file's word and bound nothing by
themselves: what would reach beyond its note is left out, so a damaged note costs what it said and
nothing else.

Source: elf(5); the kernel's fs/binfmt_elf.c (``fill_note_info``, ``fill_files_note``),
include/linux/elfcore.h and include/linux/compat.h; gdb writes the same notes, but for those of
thread-local storage.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from allocscope.immutable import immutable
from allocscope.model.libc import AARCH64, I386, X86_64

NT_PRSTATUS, NT_PRPSINFO, NT_AUXV, NT_FILE = 1, 3, 6, 0x46494C45
NT_386_TLS, NT_ARM_TLS = 0x200, 0x401

_NAME_BYTES = 16
_AT_PHDR, _AT_PHNUM, _AT_PAGESZ, _AT_BASE, _AT_ENTRY = 3, 5, 6, 7, 9
_AT_RANDOM, _AT_SYSINFO_EHDR = 25, 33
_MOST_NOTES = 1 << 20
_MOST_FILES = 1 << 18


@immutable
class _Form:
    """Offsets in the notes of one machine. ``pointer``: where prstatus has the thread pointer, or
    on i386 the selector of its segment; None where another note tells it."""

    word: str
    prstatus_bytes: int
    tid: int
    pointer: int | None
    prpsinfo_bytes: int
    pid: int
    name: int


_FORMS = {
    # pr_reg lies at 112, and fs_base is the 22nd register of user_regs_struct
    X86_64: _Form("Q", 336, 32, 112 + 21 * 8, 136, 24, 40),
    # at 72, and xgs is the 11th
    I386: _Form("I", 144, 24, 72 + 10 * 4, 124, 12, 28),
    AARCH64: _Form("Q", 392, 32, None, 136, 24, 40),
}


@immutable
class CoreThread:
    """One thread; ``thread_pointer`` is the base of fs or gs, or TPIDR_EL0; 0 where the core does
    not tell."""

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
    starts; ``page_bytes``: 4096 where the core does not tell. ``base``, ``phdr`` and ``phnum`` as
    in AuxVector; ``random_bytes_at``: what the kernel put on the main thread's stack;
    ``vdso_start``: where it mapped its own code. Addresses that are not told are 0."""

    pid: int
    comm: str
    entry: int
    threads: tuple[CoreThread, ...]
    files: tuple[CoreFileMapping, ...]
    page_bytes: int = 4096
    base: int = 0
    phdr: int = 0
    phnum: int = 0
    random_bytes_at: int = 0
    vdso_start: int = 0


def parse(data: bytes, machine: str = X86_64) -> CoreNotes:
    """The facts in the bytes of all PT_NOTE segments, one behind the other. ``machine``: x86-64,
    i386 or aarch64 (model.libc)."""
    form = _FORMS[machine]
    pid, comm = 0, ""
    vector: dict[int, int] = {}
    pointers: dict[int, int] = {}
    tid, selector = 0, 0  # of the thread whose notes come now
    files: tuple[CoreFileMapping, ...] = ()
    for owner, kind, content in _notes(data):
        if owner == b"LINUX\0":
            if kind == NT_386_TLS and machine == I386 and tid in pointers:
                pointers[tid] = _segment_base(content, selector >> 3)
            elif (
                kind == NT_ARM_TLS and machine == AARCH64 and tid in pointers and len(content) >= 8
            ):
                (pointers[tid],) = struct.unpack_from("<Q", content)
        elif kind == NT_PRSTATUS and len(content) >= form.prstatus_bytes:
            (tid,) = struct.unpack_from("<i", content, form.tid)
            told = 0
            if form.pointer is not None:
                (told,) = struct.unpack_from(f"<{form.word}", content, form.pointer)
            selector = told if machine == I386 else 0
            pointers.setdefault(tid, 0 if machine == I386 else told)
        elif kind == NT_PRPSINFO and len(content) >= form.prpsinfo_bytes:
            (pid,) = struct.unpack_from("<i", content, form.pid)
            comm = _text(content[form.name : form.name + _NAME_BYTES].split(b"\0", 1)[0])
        elif kind == NT_AUXV:
            vector = _vector(content, form.word)
        elif kind == NT_FILE:
            files = _files(content, form.word)
    threads = tuple(CoreThread(number, pointer) for number, pointer in pointers.items())
    page = vector.get(_AT_PAGESZ, 0)
    page = page if page in (4096, 16384, 65536) else 4096
    return CoreNotes(
        pid=max(pid, 0),
        comm=comm,
        entry=vector.get(_AT_ENTRY, 0),
        threads=threads,
        files=files,
        page_bytes=page,
        base=vector.get(_AT_BASE, 0),
        phdr=vector.get(_AT_PHDR, 0),
        phnum=vector.get(_AT_PHNUM, 0),
        random_bytes_at=vector.get(_AT_RANDOM, 0),
        vdso_start=vector.get(_AT_SYSINFO_EHDR, 0),
    )


def _notes(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """Owner, type and content of the notes that the kernel writes."""
    at = 0
    for _ in range(_MOST_NOTES):
        if at + 12 > len(data):
            return
        name_size, content_size, kind = struct.unpack_from("<III", data, at)
        content_at = at + 12 + _rounded(name_size)
        if content_at + content_size > len(data):
            return
        owner = data[at + 12 : at + 12 + name_size]
        if owner in (b"CORE\0", b"LINUX\0"):
            yield owner, kind, data[content_at : content_at + content_size]
        at = content_at + _rounded(content_size)


def _segment_base(content: bytes, entry: int) -> int:
    """Where a segment of the thread begins: of the struct user_desc with that entry number."""
    for number, base, _, _ in struct.iter_unpack("<4I", content[: len(content) // 16 * 16]):
        if number == entry:
            return int(base)
    return 0


def _vector(content: bytes, word: str) -> dict[int, int]:
    """The auxiliary vector."""
    size = 2 * struct.calcsize(f"<{word}")
    return dict(struct.iter_unpack(f"<2{word}", content[: len(content) // size * size]))


def _files(content: bytes, word: str) -> tuple[CoreFileMapping, ...]:
    size = struct.calcsize(f"<{word}")
    if len(content) < 2 * size:
        return ()
    count, unit = struct.unpack_from(f"<2{word}", content, 0)
    count = min(count, _MOST_FILES, (len(content) - 2 * size) // (3 * size))
    beyond = 2 * size + 3 * size * count
    names = content[beyond:].split(b"\0")[:count]
    rows = struct.iter_unpack(f"<3{word}", content[2 * size : beyond])
    return tuple(
        CoreFileMapping(start, end, offset * unit, _text(name))
        for (start, end, offset), name in zip(rows, names, strict=False)
        if start < end
    )


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _rounded(size: int) -> int:
    return (size + 3) & ~3
