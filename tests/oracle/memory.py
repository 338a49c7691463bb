"""Memory and mappings of a live process, read plainly through /proc."""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path

PAGE = 4096


@dataclasses.dataclass(frozen=True)
class Mapping:
    """One line of /proc/PID/maps; ``name`` is "" for unnamed anonymous memory."""

    start: int
    end: int
    permissions: str
    offset: int
    name: str


def mappings(pid: int) -> list[Mapping]:
    """All of them, in address order."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, permissions, offset, _, _, *name = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in addresses.split("-"))
        found.append(Mapping(start, end, permissions, int(offset, 16), name[0] if name else ""))
    return found


class Memory:
    """``memory[address]`` is the 64-bit word there. A page is read once, so the process must be
    quiescent."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        self._pages: dict[int, bytes] = {}

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def __getitem__(self, address: int) -> int:
        number = address // PAGE
        if number not in self._pages:
            self._pages[number] = os.pread(self._descriptor, PAGE, number * PAGE)
        word: int = struct.unpack_from("<Q", self._pages[number], address % PAGE)[0]
        return word
