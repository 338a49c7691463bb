"""Names for addresses in libraries and programs: ``libfoo.so!cache+0x40``.

Strategy: the very file behind the mapping is opened (mapped.py), its symbol tables are read with
pyelftools (.symtab where there is one, else what it exports), once a file, and the last symbol at
or below the address names it. pyelftools is imported only when a name is asked for.

Rules: everything in the file is hostile: what pyelftools cannot read has no symbols, and the offset
from the beginning of the library is told instead. An address behind the end of a symbol of known
size is not that symbol's.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence

from allocscope.errors import BadInput
from allocscope.immutable import immutable
from allocscope.model.process import Mapping
from allocscope.parse import elf
from allocscope.proc.mapped import MappedFile, OpenFile

MOST_FILE_BYTES = 1 << 30
_TABLES = (".symtab", ".dynsym")


@immutable
class _Symbol:
    start: int
    size: int
    name: str


@immutable
class _Object:
    """A mapped program or library. ``bias``: what the loader added to the addresses in its file."""

    name: str
    bias: int
    symbols: tuple[_Symbol, ...]
    starts: tuple[int, ...]


class Names:
    """Names addresses of one process, as it was when ``mappings`` was read."""

    def __init__(self, mappings: Sequence[Mapping], open_file: OpenFile) -> None:
        self._open_file = open_file
        self._files: dict[str, list[Mapping]] = {}
        for mapping in mappings:
            if mapping.inode:
                self._files.setdefault(mapping.path, []).append(mapping)
        self._objects: dict[str, _Object | None] = {}

    def at(self, path: str, address: int) -> str:
        """``address`` within the object at ``path``: its .data, .bss or code."""
        if path not in self._objects:
            self._objects[path] = self._read(path)
        found = self._objects[path]
        short = path.rpartition("/")[2]
        if found is None:
            return short
        offset = address - found.bias
        symbol = _last_below(found, offset)
        if symbol is None:
            return f"{short}+{offset:#x}"
        inside = offset - symbol.start
        return f"{short}!{symbol.name}+{inside:#x}" if inside else f"{short}!{symbol.name}"

    def _read(self, path: str) -> _Object | None:
        mappings = self._files.get(path)
        if not mappings:
            return None
        file = self._open_file(mappings[0])
        if file is None:
            return None
        with file:
            try:
                header = elf.header(file.read)
            except BadInput:
                return None
            bias = elf.load_bias(header, mappings)
            if bias is None:
                return None
            symbols = _symbols(file)
        return _Object(path, bias, symbols, tuple(symbol.start for symbol in symbols))


def _last_below(found: _Object, offset: int) -> _Symbol | None:
    at = bisect_right(found.starts, offset) - 1
    if at < 0:
        return None
    symbol = found.symbols[at]
    return symbol if offset < symbol.start + max(symbol.size, 1) else None


def _symbols(file: MappedFile) -> tuple[_Symbol, ...]:
    """Data objects and functions, ascending; empty where the file cannot be made sense of."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    if file.size_bytes > MOST_FILE_BYTES:
        return ()
    found: dict[int, _Symbol] = {}
    try:
        image = ELFFile(io.BytesIO(file.read(0, file.size_bytes)))
        for table in _TABLES:
            section = image.get_section_by_name(table)
            if not isinstance(section, SymbolTableSection):
                continue
            for symbol in section.iter_symbols():
                entry = symbol.entry
                if entry.st_shndx != "SHN_UNDEF" and entry.st_value and symbol.name:
                    new = _Symbol(int(entry.st_value), int(entry.st_size), symbol.name)
                    found.setdefault(new.start, new)
            if found:
                break
    except Exception:  # pyelftools lets many kinds out of damaged files
        return ()
    return tuple(found[start] for start in sorted(found))
