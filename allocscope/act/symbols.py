"""Where a target's own libc has the functions that gdb is to call.

Strategy: the file that the target has mapped is opened (through its root, or map_files when it is
deleted, and compared by device and inode: :mod:`allocscope.observe.mapped`), its exported symbols
are looked up through its hash table, and the load bias comes from the target's maps. Nothing is
resolved by this process's own libc: a host's addresses in a process of another root killed it.

Rules: a libc is a mapped file that defines ``gnu_get_libc_version`` and ``malloc_info``, so a
static executable with a symbol table is one too. Where several are mapped, ``holding`` (an address
in its data, main_arena's) tells which. ``stderr`` is resolved as libc itself resolves it, through
its global offset table: most programs hold their own copy of that variable (COPY relocation).

Raises MissingPart where no such file can be read, or it lacks a symbol.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from allocscope.errors import MissingPart
from allocscope.model.process import Mapping
from allocscope.observe import refusal
from allocscope.observe.mapped import MappedFile, is_executable, open_mapped_file

ALLOCATOR = (
    "malloc",
    "free",
    "calloc",
    "realloc",
    "memalign",
    "aligned_alloc",
    "posix_memalign",
    "valloc",
    "pvalloc",
    "malloc_usable_size",
    "malloc_trim",
    "malloc_info",
    "malloc_stats",
    "mallopt",
    "mallinfo",
)
"""The exported functions of glibc's malloc.o, in every version since 2.17 (mallinfo2 is newer)."""

RESTORER = "__restore_rt"
"""Not a symbol of any libc, but the code that signal handlers return to; found by its bytes."""

_RESTORER_CODE = bytes.fromhex("48c7c00f0000000f05")
_MARKS = ("gnu_get_libc_version", "malloc_info")
_RELOCATION = struct.Struct("<QQq")
_R_X86_64_GLOB_DAT = 6
_PF_X = 1


def resolve(
    pid: int, mappings: tuple[Mapping, ...], names: Iterable[str], holding: int | None = None
) -> dict[str, int]:
    """Addresses in process ``pid`` of ``names``, exported by its libc (or ``RESTORER``).

    ``holding``: an address that must lie in the data of that libc.
    """
    wanted = tuple(names)
    for segments in _candidates(pid, mappings):
        if holding is not None and not any(m.start <= holding < m.end for m in segments):
            continue
        file = open_mapped_file(pid, segments[0])
        if file is None:
            continue
        with file:
            try:
                libc = _Libc(pid, file, segments)
                if libc.is_one():
                    return {name: libc.address(name) for name in wanted}
            except (ELFError, ValueError, struct.error):
                continue
    raise MissingPart(
        f"process {pid} has mapped no glibc whose exported functions can be read",
        "A static executable must keep its symbol table; a 32-bit process is not supported.",
    )


def _candidates(pid: int, mappings: tuple[Mapping, ...]) -> Iterator[list[Mapping]]:
    """The mappings of each file with code in it: those named like a libc first, then the program."""
    groups: dict[tuple[str, int], list[Mapping]] = {}
    for mapping in mappings:
        if mapping.inode:
            groups.setdefault((mapping.device, mapping.inode), []).append(mapping)
    loaded = [group for group in groups.values() if any("x" in m.perms for m in group)]

    def rank(group: list[Mapping]) -> int:
        name = group[0].path.rpartition("/")[2]
        if name.startswith(("libc.so", "libc-")):
            return 0
        return 1 if is_executable(pid, group[0]) else 2

    return iter(sorted(loaded, key=rank))


class _Libc:
    """One mapped ELF file that may be a libc."""

    def __init__(self, pid: int, file: MappedFile, segments: list[Mapping]) -> None:
        self._pid = pid
        self._elf: Any = ELFFile(io.BufferedReader(_Stream(file)))
        if self._elf["e_machine"] != "EM_X86_64" or self._elf.elfclass != 64:
            raise ValueError("not a 64-bit x86 file")
        self._code: Any = next(
            s for s in self._elf.iter_segments("PT_LOAD") if s["p_flags"] & _PF_X
        )
        self._bias = _load_bias(self._code, segments)
        section = self._elf.get_section_by_name
        self._tables = [t for t in map(section, (".gnu.hash", ".symtab")) if t is not None]

    def is_one(self) -> bool:
        return all(self._find(name) is not None for name in _MARKS)

    def address(self, name: str) -> int:
        if name == RESTORER:
            return self._restorer()
        if name == "stderr":
            slot = self._slot("stderr")
            if slot is not None:
                return self._read_word(self._bias + slot)
        value = self._find(name)
        if value is None:
            raise MissingPart(f"the libc of process {self._pid} has no {name}")
        return self._bias + value

    def _find(self, name: str) -> int | None:
        for table in self._tables:
            found = table.get_symbol(name) if table.name == ".gnu.hash" else None
            if table.name == ".symtab":
                found = next(iter(table.get_symbol_by_name(name) or ()), None)
            if found is not None and found["st_shndx"] != "SHN_UNDEF":
                return int(found["st_value"])
        return None

    def _slot(self, name: str) -> int | None:
        """Where libc keeps the address of its exported variable ``name``, None if it needs no slot."""
        relocations = self._elf.get_section_by_name(".rela.dyn")
        symbols = self._elf.get_section_by_name(".dynsym")
        if relocations is None or symbols is None:
            return None
        for offset, information, _ in _RELOCATION.iter_unpack(relocations.data()):
            if information & 0xFFFFFFFF == _R_X86_64_GLOB_DAT:
                if symbols.get_symbol(information >> 32).name == name:
                    return int(offset)
        return None

    def _restorer(self) -> int:
        place = self._code.data().find(_RESTORER_CODE)
        if place < 0:
            raise MissingPart(f"the libc of process {self._pid} has no signal restorer")
        return self._bias + int(self._code["p_vaddr"]) + int(place)

    def _read_word(self, address: int) -> int:
        try:
            with open(f"/proc/{self._pid}/mem", "rb", buffering=0) as memory:
                return int.from_bytes(os.pread(memory.fileno(), 8, address), "little")
        except OSError as error:
            raise refusal.translate(self._pid, "the memory", error) from error


def _load_bias(code: Any, segments: list[Mapping]) -> int:
    """How far the file was moved: where its code is, minus where it was linked to be."""
    for mapping in segments:
        if (
            "x" in mapping.perms
            and mapping.offset <= code["p_offset"] < mapping.offset + mapping.size_bytes
        ):
            return mapping.start - mapping.offset + int(code["p_offset"]) - int(code["p_vaddr"])
    raise ValueError("its code is not mapped")


class _Stream(io.RawIOBase):
    """A mapped file as the stream that pyelftools reads."""

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._file.size_bytes}
        self._place = max(start[whence] + offset, 0)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(self._place, len(buffer))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
