"""Runtimes and allocators that can print statistics of their own, and where their functions are.

Strategy: each has a function that no other library exports, so the mapped program and libraries are
asked for it, through the hash tables that the loader uses. The names say who it is; tcmalloc, whose
``malloc_stats`` glibc has too, is known by another of its functions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from allocscope.errors import BadInput
from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX
from allocscope.model.process import Mapping
from allocscope.parse import elf, symbols
from allocscope.proc.mapped import open_mapped_file

STREAM = "stream"
"""An argument that stands for the stream to print on: glibc's stderr."""


@immutable
class Speaker:
    """``function`` prints on descriptor 2 when it is called at ``address`` with ``arguments``."""

    name: str
    function: str
    address: int = field(metadata=HEX)
    prototype: str
    arguments: tuple[int | str, ...]


_KNOWN: tuple[tuple[str, bytes, str, str, tuple[int | str, ...]], ...] = (
    ("CPython", b"_PyObject_DebugMallocStats", "", "int(void *)", (STREAM,)),
    ("jemalloc", b"malloc_stats_print", "", "int(void *, void *, void *)", (0, 0, 0)),
    ("mimalloc", b"mi_stats_print", "", "int(void *)", (0,)),
    ("tcmalloc", b"MallocExtension_GetStats", "malloc_stats", "int(void)", ()),
)
"""Name, the function that tells who it is, the one to call if that is another, how to call it."""


def find(pid: int, mappings: Sequence[Mapping]) -> tuple[Speaker, ...]:
    """Those of process ``pid``, each once."""
    found: dict[str, Speaker] = {}
    for path in dict.fromkeys(m.path for m in mappings if m.inode and m.perms[2] == "x"):
        for speaker in _of_file(pid, [m for m in mappings if m.path == path and m.inode]):
            found.setdefault(speaker.name, speaker)
    return tuple(found.values())


def _of_file(pid: int, mappings: Sequence[Mapping]) -> Iterator[Speaker]:
    file = open_mapped_file(pid, mappings[0])
    if file is None:
        return
    with file, contextlib.suppress(BadInput):
        image = elf.from_file(file.read)
        bias = elf.load_bias(image.header, mappings)
        if bias is None:
            return
        for name, mark, other, prototype, arguments in _KNOWN:
            place = symbols.exported(image, mark)
            if place is not None and other:
                place = symbols.exported(image, other.encode())
            if place is not None:
                function = other or mark.decode()
                yield Speaker(name, function, bias + place, prototype, arguments)
