"""main_arena and mp_ of a process: from the debug symbols where those are installed, and by what
the bytes must look like where not. Both ways are here so that each can be held against the
other."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from oracle import OracleError
from oracle.layout import HEAP_BYTES, Layout
from oracle.memory import Mapping, Memory, mappings

DEBUG_FILES = Path("/usr/lib/debug/.build-id")
MALLOC_PAR_START = struct.pack("<5Q", 0x20000, 0x20000, 0x20000, 8, 0)


def libc_of(pid: int) -> list[Mapping]:
    """The mappings of the process's libc.so.6, lowest first."""
    found = [m for m in mappings(pid) if re.search(r"/libc(-2\.\d+)?\.so(\.6)?$", m.name)]
    if not found:
        raise OracleError(f"no libc is mapped in {pid}")
    return found


def glibc_minor(pid: int) -> int:
    """The 36 of "GNU C Library … release version 2.36", as the mapped file says it."""
    found = re.search(rb"stable release version 2\.(\d+)", Path(libc_of(pid)[0].name).read_bytes())
    if not found:
        raise OracleError("libc does not name its version")
    return int(found.group(1))


def from_debug_symbols(pid: int) -> tuple[int, int] | None:
    """Addresses of (main_arena, mp_), or None where no debug file is installed for this libc."""
    libc = libc_of(pid)[0]
    with open(libc.name, "rb") as file:
        note = ELFFile(file).get_section_by_name(".note.gnu.build-id")
        assert note is not None, "Debian's libc has a build-id"
        build_id = note.data()[16:].hex()
    debug = DEBUG_FILES / build_id[:2] / f"{build_id[2:]}.debug"
    if not debug.exists():
        return None
    with open(debug, "rb") as file:
        symbols = ELFFile(file).get_section_by_name(".symtab")
        assert isinstance(symbols, SymbolTableSection)
        return _symbol(symbols, "main_arena") + libc.start, _symbol(symbols, "mp_") + libc.start


def _symbol(symbols: SymbolTableSection, name: str) -> int:
    found = symbols.get_symbol_by_name(name)
    if not found:
        raise OracleError(f"the debug symbols have no {name}")
    value: int = found[0]["st_value"]
    return value


def from_bytes(memory: Memory, layout: Layout) -> tuple[int, int]:
    """The same without symbols: a word that begins a ring of bins as main_arena's must look, and
    the initial values that mp_ has in the file."""
    return _main_arena(memory, layout), _par(memory.pid)


def _main_arena(memory: Memory, layout: Layout) -> int:
    found = []
    for mapping in libc_of(memory.pid):
        if not mapping.permissions.startswith("rw"):
            continue
        for candidate in range(mapping.start, mapping.end - layout.state_bytes, 8):
            last_bin = candidate + layout.bins + 126 * 16 - 16
            following = memory[candidate + layout.next]
            in_ring = following == candidate or following % HEAP_BYTES == layout.heap_info_bytes
            if in_ring and memory[last_bin + 16] == last_bin == memory[last_bin + 24]:
                found.append(candidate)
    if len(found) != 1:
        raise OracleError(f"{len(found)} places in libc look like main_arena")
    return found[0]


def _par(pid: int) -> int:
    libc = libc_of(pid)
    data = Path(libc[0].name).read_bytes()
    places = [found.start() for found in re.finditer(re.escape(MALLOC_PAR_START), data)]
    for mapping in libc:
        size = mapping.end - mapping.start
        for place in places:
            if mapping.permissions.startswith("rw") and 0 <= place - mapping.offset < size:
                return mapping.start + place - mapping.offset
    raise OracleError("mp_ is not where its initial values are")
