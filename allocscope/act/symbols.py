"""Where a target's own libc has the functions that gdb is to call.

Strategy: the file that the target has mapped is opened (through its root, or map_files when it is
deleted, and compared by device and inode: :mod:`allocscope.proc.mapped`) and its exported
symbols are looked up through its hash table; a static executable is looked up in its symbol table.
Nothing is resolved by this process's own libc: a host's addresses, called in a process of another
root, killed it.

``stderr`` is resolved as libc itself does it, through the slot in its global offset table: most
programs have that variable in their own data (COPY relocation), and libc then uses theirs.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from allocscope.errors import MissingPart
from allocscope.model.libc import LibcImage
from allocscope.proc import refusal
from allocscope.proc.mapped import MappedFile, open_mapped_file

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
"""The exported functions of glibc's malloc.o that every version since 2.17 has."""

_BEFORE, _BEHIND = 0x5000, 0x2000
"""The allocator's static functions lie around the exported ones, by this much in 2.23 to 2.44."""

RESTORER = "__restore_rt"
"""No exported symbol, but the code that signal handlers return to: found by its bytes."""

_RESTORER_CODE = bytes.fromhex("48c7c00f0000000f05")
_RELOCATION = struct.Struct("<QQq")
_R_X86_64_GLOB_DAT = 6
_PF_X = 1


def allocator_code(symbols: Mapping[str, int]) -> range:
    """Where the allocator's code lies, given the addresses of ``ALLOCATOR``."""
    addresses = [symbols[name] for name in ALLOCATOR]
    return range(min(addresses) - _BEFORE, max(addresses) + _BEHIND)


def resolve(pid: int, image: LibcImage, names: Iterable[str]) -> dict[str, int]:
    """The addresses in process ``pid`` of ``names``: functions and variables that its libc exports,
    ``RESTORER`` among them.

    Raises MissingPart where the file cannot be read, is not for x86-64, or lacks one of them.
    """
    file = open_mapped_file(pid, image.mappings[0])
    if file is None or image.load_bias is None:
        raise MissingPart(
            f"the file of the libc of process {pid} cannot be read: {image.path}",
            "A file that was replaced or deleted can be read by root only.",
        )
    with file:
        try:
            libc = _Libc(pid, file, image.load_bias)
            return {name: libc.address(name) for name in names}
        except (ELFError, ValueError, struct.error) as error:
            raise MissingPart(
                f"the libc of process {pid} ({image.path}) cannot be used: {error}",
                "A static executable must not be stripped, and may lack functions that `ask "
                "--live` and `trim --apply` need.",
            ) from error


class _Libc:
    """The ELF file of a mapped libc."""

    def __init__(self, pid: int, file: MappedFile, bias: int) -> None:
        self._pid = pid
        self._bias = bias
        self._elf: Any = ELFFile(io.BufferedReader(_Stream(file)))
        if self._elf["e_machine"] != "EM_X86_64":
            raise ValueError(f"its machine is {self._elf['e_machine']}, not x86-64")
        self._hash: Any = self._elf.get_section_by_name(".gnu.hash")
        self._table: Any = self._elf.get_section_by_name(".symtab")

    def address(self, name: str) -> int:
        if name == RESTORER:
            return self._bias + self._restorer()
        slot = self._slot(name) if name == "stderr" else None
        if slot is not None:
            return self._word(self._bias + slot)
        return self._bias + self._value(name)

    def _value(self, name: str) -> int:
        found = []
        if self._hash is not None:
            found = [self._hash.get_symbol(name)]
        if not any(found) and self._table is not None:
            found = self._table.get_symbol_by_name(name) or []
        for symbol in found:
            if symbol is not None and symbol["st_shndx"] != "SHN_UNDEF":
                return int(symbol["st_value"])
        raise ValueError(f"it has no symbol {name}")

    def _slot(self, name: str) -> int | None:
        """Where this file keeps the address of a variable that it exports; None: it needs none."""
        relocations = self._elf.get_section_by_name(".rela.dyn")
        symbols = self._elf.get_section_by_name(".dynsym")
        if relocations is None or symbols is None:
            return None
        for offset, information, _ in _RELOCATION.iter_unpack(relocations.data()):
            symbol, kind = information >> 32, information & 0xFFFFFFFF
            if kind == _R_X86_64_GLOB_DAT and symbols.get_symbol(symbol).name == name:
                return int(offset)
        return None

    def _restorer(self) -> int:
        for segment in self._elf.iter_segments("PT_LOAD"):
            if segment["p_flags"] & _PF_X:
                place = segment.data().find(_RESTORER_CODE)
                if place >= 0:
                    return int(segment["p_vaddr"]) + int(place)
        raise ValueError("it has no code that signal handlers return to")

    def _word(self, address: int) -> int:
        try:
            with open(f"/proc/{self._pid}/mem", "rb", buffering=0) as memory:
                return int.from_bytes(os.pread(memory.fileno(), 8, address), "little")
        except OSError as error:
            raise refusal.translate(self._pid, "the memory", error) from error


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
