"""Which files in a process Go's linker made: its program, or libraries (-buildmode=c-shared).

The mark is the note that the linker writes (cmd/link, elf.go: owner "Go").
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from allocscope.errors import BadInput
from allocscope.model.process import Mapping
from allocscope.parse import elf
from allocscope.proc import procfs
from allocscope.proc.mapped import open_mapped_file


def modules(pid: int, mappings: Sequence[Mapping], *, libraries: bool) -> Iterator[str]:
    """The paths of such files, as maps prints them: the program alone, or ``libraries`` too. Raises
    NoSuchProcess, PermissionRefused."""
    program = procfs.exe(pid).replace("\n", "\\012")
    firsts: dict[str, Mapping] = {}
    for mapping in mappings:
        if mapping.inode and (libraries or mapping.path == program):
            firsts.setdefault(mapping.path, mapping)
    yield from (path for path, mapping in firsts.items() if _of_go(pid, mapping))


def _of_go(pid: int, first: Mapping) -> bool:
    file = open_mapped_file(pid, first)
    if file is None:
        return False
    with file, contextlib.suppress(BadInput):
        return any(owner == b"Go" for owner, _, _ in elf.notes(elf.from_file(file.read)))
    return False
