"""The notes of cores of other machines, where the fields lie elsewhere. Source: elf(5), the
kernel's include/linux/elfcore.h, include/linux/compat.h, arch/x86/include/asm/ldt.h."""

from __future__ import annotations

import struct

from unit.cores import note

from allocscope.model.libc import AARCH64, I386
from allocscope.parse import core_notes
from allocscope.parse.core_notes import CoreFileMapping, CoreThread

LINUX = b"LINUX\0"
GS = 12 << 3 | 3


def prstatus(tid: int, size: int, at: int, *fields: tuple[str, int, int]) -> bytes:
    content = bytearray(size)
    struct.pack_into("<i", content, at, tid)
    for form, offset, value in fields:
        struct.pack_into(form, content, offset, value)
    return note(core_notes.NT_PRSTATUS, bytes(content))


def segments(*bases: int) -> bytes:
    rows = [struct.pack("<4I", 12 + i, base, 0xFFFFF, 0x51) for i, base in enumerate(bases)]
    return note(core_notes.NT_386_TLS, b"".join(rows), LINUX)


def test_a_32_bit_program() -> None:
    psinfo = bytearray(124)
    struct.pack_into("<i", psinfo, 12, 70)
    psinfo[28:33] = b"small"
    files = struct.pack("<5I", 1, 4096, 0xF7D00000, 0xF7F00000, 3) + b"/lib/libc.so.6\0"
    data = (
        prstatus(70, 144, 24, ("<I", 72 + 40, GS))
        + note(core_notes.NT_PRPSINFO, bytes(psinfo))
        + note(core_notes.NT_AUXV, struct.pack("<6I", 6, 4096, 9, 0x8049000, 0, 0))
        + note(core_notes.NT_FILE, files)
        + segments(0xF7CFF740, 0)
        + prstatus(71, 144, 24, ("<I", 72 + 40, GS))
        + segments(0xF74FEB40, 0x1000)
        + prstatus(72, 144, 24)
    )
    found = core_notes.parse(data, I386)
    assert (found.pid, found.comm, found.entry) == (70, "small", 0x8049000)
    assert found.threads == (
        CoreThread(70, 0xF7CFF740),
        CoreThread(71, 0xF74FEB40),
        CoreThread(72, 0),
    )
    assert found.files == (CoreFileMapping(0xF7D00000, 0xF7F00000, 0x3000, "/lib/libc.so.6"),)


def test_an_aarch64_program_with_large_pages() -> None:
    data = (
        note(core_notes.NT_ARM_TLS, struct.pack("<Q", 1), LINUX)  # of no thread
        + prstatus(80, 392, 32)
        + note(core_notes.NT_AUXV, struct.pack("<4Q", 6, 65536, 0, 0))
        + note(core_notes.NT_ARM_TLS, struct.pack("<2Q", 0xFFFF_8C00_0700, 0), LINUX)
        + prstatus(81, 392, 32)
    )
    found = core_notes.parse(data, AARCH64)
    assert found.threads == (CoreThread(80, 0xFFFF_8C00_0700), CoreThread(81, 0))
    assert found.page_bytes == 65536


def test_a_page_size_that_no_machine_has_is_not_believed() -> None:
    data = note(core_notes.NT_AUXV, struct.pack("<2Q", 6, 123))
    assert core_notes.parse(data, AARCH64).page_bytes == 4096


def test_notes_of_another_machine_mean_nothing() -> None:
    data = prstatus(90, 336, 32, ("<Q", 112 + 21 * 8, 0x7F00_0000_0740)) + segments(0x1000)
    data += note(core_notes.NT_ARM_TLS, struct.pack("<Q", 5), LINUX)
    assert core_notes.parse(data).threads == (CoreThread(90, 0x7F00_0000_0740),)


def test_what_the_kernel_told_the_program() -> None:
    pairs = {3: 0x400040, 5: 13, 7: 0x7F00_0000_0000, 9: 0x401000, 25: 0x7FFE_1000_0123}
    pairs |= {33: 0x7FFE_2000_0000, 0: 0}
    words = [word for pair in pairs.items() for word in pair]
    found = core_notes.parse(note(core_notes.NT_AUXV, struct.pack(f"<{len(words)}Q", *words)))
    assert (found.phdr, found.phnum, found.base, found.entry) == (
        0x400040,
        13,
        0x7F00_0000_0000,
        0x401000,
    )
    assert (found.random_bytes_at, found.vdso_start) == (0x7FFE_1000_0123, 0x7FFE_2000_0000)
