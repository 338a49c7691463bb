"""Whether a process runs a program that Go's linker made, with or without a C library.

The mark is the note that the linker writes (cmd/link, elf.go: owner "Go").
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from allocscope.errors import BadInput
from allocscope.model.process import Mapping
from allocscope.parse import elf
from allocscope.proc.mapped import OpenFile


def is_go(path: str, mappings: Sequence[Mapping], open_file: OpenFile) -> bool:
    """Is the program at ``path``, as maps prints it, one of Go's? Raises NoSuchProcess,
    PermissionRefused."""
    first = next((m for m in mappings if m.inode and m.path == path), None)
    file = None if first is None else open_file(first)
    if file is None:
        return False
    with file, contextlib.suppress(BadInput):
        return any(owner == b"Go" for owner, _, _ in elf.notes(elf.from_file(file.read)))
    return False
