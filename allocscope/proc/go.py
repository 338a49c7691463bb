"""Which files in a process Go's linker made: its program, or libraries (-buildmode=c-shared).

The mark is the note that the linker writes (cmd/link, elf.go: owner "Go").
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from allocscope.errors import BadInput
from allocscope.model.process import Mapping
from allocscope.parse import elf
from allocscope.proc.mapped import OpenFile


def modules(
    mappings: Sequence[Mapping], open_file: OpenFile, only: str | None = None
) -> Iterator[str]:
    """The paths of such files, as maps prints them; ``only``: that one at most. Raises
    NoSuchProcess, PermissionRefused."""
    firsts: dict[str, Mapping] = {}
    for mapping in mappings:
        if mapping.inode and only in (None, mapping.path):
            firsts.setdefault(mapping.path, mapping)
    yield from (path for path, mapping in firsts.items() if _of_go(mapping, open_file))


def _of_go(first: Mapping, open_file: OpenFile) -> bool:
    file = open_file(first)
    if file is None:
        return False
    with file, contextlib.suppress(BadInput):
        return any(owner == b"Go" for owner, _, _ in elf.notes(elf.from_file(file.read)))
    return False
