"""Whether a process runs a program that Go's linker made, with or without a C library.

The mark is the note that the linker writes (cmd/link, elf.go: owner "Go").
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from allocscope.errors import BadInput
from allocscope.model.process import Mapping
from allocscope.parse import elf
from allocscope.proc import procfs
from allocscope.proc.mapped import open_mapped_file


def program(pid: int, mappings: Sequence[Mapping]) -> str | None:
    """The path of the program, as maps prints it; None for one that is not Go's. Raises
    NoSuchProcess, PermissionRefused."""
    path = procfs.exe(pid).replace("\n", "\\012")
    first = next((m for m in mappings if m.inode and m.path == path), None)
    file = None if first is None else open_mapped_file(pid, first)
    if file is None:
        return None
    with file, contextlib.suppress(BadInput):
        if any(owner == b"Go" for owner, _, _ in elf.notes(elf.from_file(file.read))):
            return path
    return None
