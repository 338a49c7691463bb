"""The variables of a Java virtual machine (HotSpot), by its own table of them.

Strategy: libjvm.so exports a table of its structures for debuggers (gHotSpotVMStructs,
src/hotspot/share/runtime/vmStructs.hpp; the serviceability agent reads it): type, field, where it
is. The table's pointers are in memory, its texts are read from the file, so that no page is faulted
in.

Rules: what the table does not have (other machines, other releases) is not guessed: asking for it
is a MissingField.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator

from allocscope.errors import BadInput
from allocscope.glibc.protocols import Memory
from allocscope.model.process import Mapping
from allocscope.parse import elf, symbols
from allocscope.proc.mapped import MappedFile

ENTRY = struct.Struct("<QQQi4xQQ")
BLOCK_BYTES = 32 * ENTRY.size
MOST_BLOCKS = 512
LONGEST_NAME = 128


class MissingField(Exception):
    """The table does not have this field."""


class VmStructs:
    """One libjvm.so in a process. ``sought``: the fields that are wanted, as "Type::field"."""

    def __init__(
        self, memory: Memory, file: MappedFile, first: Mapping, sought: Collection[str]
    ) -> None:
        self.memory = memory
        self.image = elf.from_file(file.read)
        bias = elf.load_bias(self.image.header, [first])
        if bias is None:
            raise BadInput("no segment of libjvm.so is mapped where it begins")
        self.bias = bias
        self._texts: dict[int, str] = {}
        self._fields = dict(self._read(sought))

    def word(self, address: int) -> int:
        return int.from_bytes(self.memory.read(address, 8), "little")

    def place(self, name: str) -> int:
        """Where a static field is, or how far from its object's start."""
        if name not in self._fields:
            raise MissingField(name)
        return self._fields[name]

    def static(self, name: str) -> int:
        """The word of a static field."""
        return self.word(self.place(name))

    def field(self, start: int, name: str) -> int:
        """The word of a field of the object at ``start``."""
        return self.word(start + self.place(name))

    def _read(self, sought: Collection[str]) -> Iterator[tuple[str, int]]:
        types = {name.rpartition("::")[0] for name in sought}
        symbol = symbols.exported(self.image, b"gHotSpotVMStructs")
        table = 0 if symbol is None else self.word(self.bias + symbol)
        for number in range(MOST_BLOCKS if table else 0):
            block = self.memory.read(table + number * BLOCK_BYTES, BLOCK_BYTES)
            for owner, name, _, static, offset, address in ENTRY.iter_unpack(block):
                if not owner:
                    return
                if self._text(owner) in types:
                    full = f"{self._text(owner)}::{self._text(name)}"
                    if full in sought:
                        yield full, address if static else offset

    def _text(self, address: int) -> str:
        """A constant of the library, from its file."""
        found = self._texts.get(address)
        if found is None:
            data = self.image.read(address - self.bias, LONGEST_NAME) if address else b""
            found = data.split(b"\0", 1)[0].decode("ascii", "replace")
            self._texts[address] = found
        return found
