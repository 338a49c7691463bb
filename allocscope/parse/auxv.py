"""/proc/PID/auxv: what the kernel told the process about itself when it started.

Rule: pairs of 64-bit words, ended by AT_NULL. A 32-bit target has half of that, and is recognised
by its ELF header before anybody asks for this.

Source: proc_pid_auxv(5), getauxval(3).
"""

from __future__ import annotations

import struct

from allocscope.errors import BadInput
from allocscope.model.process import AuxVector

_AT_NULL, _AT_PHDR, _AT_PHNUM, _AT_PAGESZ, _AT_BASE, _AT_ENTRY, _AT_SECURE = 0, 3, 5, 6, 7, 9, 23


def parse(data: bytes) -> AuxVector:
    """The vector of a 64-bit little-endian process. Raises BadInput when it is cut off."""
    if len(data) % 16:
        raise BadInput(f"auxv: {len(data)} bytes are no whole number of entries")
    entries: dict[int, int] = {}
    for kind, value in struct.iter_unpack("<QQ", data):
        if kind == _AT_NULL:
            break
        entries[kind] = value
    else:
        raise BadInput("auxv: the end mark is missing")
    return AuxVector(
        base=entries.get(_AT_BASE, 0),
        phdr=entries.get(_AT_PHDR, 0),
        phnum=entries.get(_AT_PHNUM, 0),
        entry=entries.get(_AT_ENTRY, 0),
        page_bytes=entries.get(_AT_PAGESZ, 4096),
        secure=bool(entries.get(_AT_SECURE, 0)),
    )
