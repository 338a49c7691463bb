"""The files that a process had mapped, as far as the very same are on this machine: for a core or a
recording, which may come from another one.

Strategy: the build-id in the memory that the first page of a mapped program or library was loaded
to is held against that of the file at the same path. Rule: without that proof a file is not opened,
however well its path fits: symbols of another build would name the wrong things.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping as Dictionary
from collections.abc import Sequence

from allocscope.errors import BadInput, MemoryGap
from allocscope.glibc.protocols import Memory
from allocscope.model.process import Mapping
from allocscope.parse import elf, maps
from allocscope.proc.mapped import MappedFile, OpenFile, open_by_build_id

_DELETED = " (deleted)"


def build_id_in(memory: Memory, first: Mapping) -> str | None:
    """The build-id of the file that ``first`` maps the beginning of, None where memory does not
    tell."""

    def read(address: int, size: int) -> bytes:
        try:
            return memory.read(address, size)
        except MemoryGap:
            return b""

    if first.offset:
        return None
    with contextlib.suppress(BadInput):
        return elf.build_id(elf.from_memory(read, first.start))
    return None


def opener(
    memory: Memory, mappings: Sequence[Mapping], elsewhere: Dictionary[str, str] | None = None
) -> OpenFile:
    """Opens what proves to be the file behind a mapping. ``elsewhere``: where it lies on this
    machine, by the path that it had."""
    first: dict[str, Mapping] = {}
    for mapping in mappings:
        if mapping.inode:
            first.setdefault(mapping.path, mapping)

    def open_file(mapping: Mapping) -> MappedFile | None:
        path = mapping.path
        begins = first.get(path)
        build_id = None if begins is None else build_id_in(memory, begins)
        if build_id is None:
            return None
        plain = path.removesuffix(_DELETED)
        here = (elsewhere or {}).get(path)
        for candidate in dict.fromkeys((here or plain, plain, maps.unescape(plain))):
            file = open_by_build_id(candidate, build_id)
            if file is not None:
                return file
        return None

    return open_file
