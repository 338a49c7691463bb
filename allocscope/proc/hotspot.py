"""Where a Java virtual machine (HotSpot) has its heap and its compiled code.

Strategy: libjvm.so exports a table of its own structures for debuggers (gHotSpotVMStructs,
src/hotspot/share/runtime/vmStructs.hpp; the serviceability agent reads it): type, field, where it
is. By that table the reserved range of the Java heap (CollectedHeap::_reserved) and of the code
cache are read from the machine's own variables. The table's pointers are in memory, its texts are
read from the file, so that no page is faulted in.

Rules: what the table does not have (other machines, other releases) is not guessed.
"""

from __future__ import annotations

import contextlib
import re
import struct
from collections.abc import Iterator, Sequence

from allocscope.errors import BadInput, MemoryGap
from allocscope.glibc.layouts import WORD
from allocscope.glibc.protocols import Memory
from allocscope.model.owners import Claim
from allocscope.model.process import Mapping
from allocscope.parse import elf, symbols
from allocscope.proc.mapped import MappedFile, OpenFile

LIBRARY = re.compile(r"/libjvm\.so( \(deleted\))?$")
ENTRY = struct.Struct("<QQQi4xQQ")
BLOCK_BYTES = 32 * ENTRY.size
MOST_BLOCKS = 512
LONGEST_NAME = 128
_SOUGHT = {
    "Universe::_collectedHeap",
    "CollectedHeap::_reserved",
    "MemRegion::_start",
    "MemRegion::_word_size",
    "CodeCache::_low_bound",
    "CodeCache::_high_bound",
}
_TYPES = {name.partition("::")[0] for name in _SOUGHT}


class _Machine:
    """One libjvm.so in a process, with the fields of its table that are sought."""

    def __init__(self, memory: Memory, file: MappedFile, first: Mapping) -> None:
        self.memory = memory
        self.image = elf.from_file(file.read)
        bias = elf.load_bias(self.image.header, [first])
        if bias is None:
            raise BadInput("no segment of libjvm.so is mapped where it begins")
        self.bias = bias
        self._texts: dict[int, str] = {}
        self.fields = dict(self._fields())

    def word(self, address: int) -> int:
        return int.from_bytes(self.memory.read(address, 8), "little")

    def text(self, address: int) -> str:
        """A constant of the library, from its file."""
        found = self._texts.get(address)
        if found is None:
            data = self.image.read(address - self.bias, LONGEST_NAME) if address else b""
            found = data.split(b"\0", 1)[0].decode("ascii", "replace")
            self._texts[address] = found
        return found

    def _fields(self) -> Iterator[tuple[str, int]]:
        """``("Type::field", offset or address)`` of what is sought."""
        symbol = symbols.exported(self.image, b"gHotSpotVMStructs")
        table = 0 if symbol is None else self.word(self.bias + symbol)
        for number in range(MOST_BLOCKS if table else 0):
            block = self.memory.read(table + number * BLOCK_BYTES, BLOCK_BYTES)
            for owner, name, _, static, offset, address in ENTRY.iter_unpack(block):
                if not owner:
                    return
                if self.text(owner) in _TYPES:
                    full = f"{self.text(owner)}::{self.text(name)}"
                    if full in _SOUGHT:
                        yield full, address if static else offset

    def heap(self) -> tuple[int, int] | None:
        at = self.fields
        if not at.keys() >= {name for name in _SOUGHT if not name.startswith("CodeCache")}:
            return None
        region = self.word(at["Universe::_collectedHeap"]) + at["CollectedHeap::_reserved"]
        start = self.word(region + at["MemRegion::_start"])
        return start, start + 8 * self.word(region + at["MemRegion::_word_size"])

    def code(self) -> tuple[int, int] | None:
        low, high = (self.fields.get(f"CodeCache::_{end}_bound") for end in ("low", "high"))
        return None if low is None or high is None else (self.word(low), self.word(high))


def claims(memory: Memory, mappings: Sequence[Mapping], open_file: OpenFile) -> Iterator[Claim]:
    """Claims for the Java heap and the code cache; none where there is no HotSpot in the process,
    or one for 32 bits. Raises NoSuchProcess, PermissionRefused."""
    if memory.abi.word_bytes != WORD:
        return
    first = next((m for m in mappings if not m.offset and LIBRARY.search(m.path)), None)
    file = None if first is None else open_file(first)
    if first is None or file is None:
        return
    with file, contextlib.suppress(BadInput, MemoryGap):
        machine = _Machine(memory, file, first)
        ranges = (
            (machine.heap(), "Java heap", "CollectedHeap::_reserved"),
            (machine.code(), "Java code cache", "CodeCache::_low_bound"),
        )
        for found, owner, field in ranges:
            if found is not None and 0 < found[0] < found[1]:
                evidence = f"{field} in libjvm.so's own variables, by its table for debuggers"
                yield Claim(*found, "runtime-heap", owner, evidence)
