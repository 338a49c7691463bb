"""malloc_stats' text in, :class:`MallocStats` out, exactly as printed.

Strategy: the format has been the same since before glibc 2.17, so it is read line by line against
what must come next.

Rules: whatever the bytes are, only BadInput escapes, and it names the line. All figures but
``max_mmap_bytes`` are truncated to 32 bits by glibc itself, in every version up to 2.44 at least:
they are modulo 2**32 here too. Facts: glibc malloc/malloc.c, ``__malloc_stats``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from allocscope.errors import BadInput
from allocscope.model.glibc_says import MallocStats, StatsArena

_ARENA = re.compile(r"Arena ([0-9]{1,10}):\Z")
_FIGURE = re.compile(r"(.{16}) = {1,11}([0-9]{1,20})\Z")
_TOTAL = "Total (incl. mmap):"
_LIMITS = {"max mmap bytes": 1 << 64}


def parse(text: bytes) -> MallocStats:
    """Reads what ``malloc_stats()`` wrote. Raises BadInput when the text is cut off or is no
    malloc_stats output.
    """
    lines = _Lines(text)
    arenas: list[StatsArena] = []
    while (heading := lines.next("an arena or the totals")) != _TOTAL:
        match = _ARENA.match(heading)
        if match is None or int(match[1]) != len(arenas):
            raise lines.bad(f"'Arena {len(arenas)}:' or '{_TOTAL}' expected")
        arenas.append(
            StatsArena(
                index=len(arenas),
                system_bytes=lines.figure("system bytes"),
                in_use_bytes=lines.figure("in use bytes"),
            )
        )
    if not arenas:
        raise lines.bad("totals without any arena")
    stats = MallocStats(
        arenas=tuple(arenas),
        total_system_bytes=lines.figure("system bytes"),
        total_in_use_bytes=lines.figure("in use bytes"),
        max_mmap_regions=lines.figure("max mmap regions"),
        max_mmap_bytes=lines.figure("max mmap bytes"),
    )
    lines.end()
    return stats


class _Lines:
    """The lines of the text with their numbers, for the messages."""

    def __init__(self, text: bytes) -> None:
        if not text.endswith(b"\n"):
            raise BadInput(
                "malloc_stats' text is cut off: its last line has no end"
                if text
                else "malloc_stats' text is empty"
            )
        self._lines: Iterator[str] = iter(text.decode("ascii", "replace").split("\n")[:-1])
        self._current = ""
        self._number = 0

    def next(self, expected: str) -> str:
        line = next(self._lines, None)
        if line is None:
            raise BadInput(
                f"malloc_stats' text is cut off after line {self._number}: {expected} should follow"
            )
        self._current = line
        self._number += 1
        return line

    def figure(self, name: str) -> int:
        match = _FIGURE.match(self.next(f"'{name}'"))
        if match is None or match[1].rstrip() != name:
            raise self.bad(f"'{name} = …' expected")
        value = int(match[2])
        if value >= _LIMITS.get(name, 1 << 32):
            raise self.bad(f"{value} is more than glibc can print for '{name}'")
        return value

    def end(self) -> None:
        line = next(self._lines, None)
        if line is not None:
            self._number += 1
            self._current = line
            raise self.bad("text after the end")

    def bad(self, what: str) -> BadInput:
        return BadInput(
            f"malloc_stats' text, line {self._number}: {what}, found {self._current[:60]!r}"
        )
