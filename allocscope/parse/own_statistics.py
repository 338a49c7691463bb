"""The main figures of what runtimes and allocators print about themselves.

Rules: only figures that are bytes, under the printer's own words; a line that is not known is
passed over, so that a new release loses figures and invents none.

Source: Objects/obmalloc.c (CPython), jemalloc's stats.c, mimalloc's stats.c, gperftools'
malloc_extension.cc.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from allocscope.model.glibc_says import OwnFigure

_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_CPYTHON = re.compile(r"^(# bytes [^=]+?|(?:\d+ )?(?:unused pools|arenas) \* [^=]+?) += +([\d,]+)$")
_JEMALLOC = re.compile(r"(\w+): (\d+)\b")
_SIZE = r"(-?[\d.]+(?: [KMGT]?i?B)?)"
_MIMALLOC = re.compile(rf"^ *(reserved|committed): +{_SIZE} +{_SIZE} +{_SIZE} +{_SIZE}\b")
_TCMALLOC = re.compile(r"^MALLOC: +[+=-]? +(\d+) \( *[\d.]+ MiB\) (.+)$")


def parse(speaker: str, text: bytes) -> tuple[OwnFigure, ...]:
    """The figures in ``text``, which ``speaker`` ("CPython", "jemalloc", "mimalloc", "tcmalloc")
    printed; empty where none is recognised."""
    lines = text.decode("utf-8", "replace").splitlines()
    return tuple(_READERS[speaker](lines))


def _cpython(lines: Iterable[str]) -> Iterable[OwnFigure]:
    for line in lines:
        match = _CPYTHON.match(line)
        if match:
            name = match[1].removeprefix("# ")
            yield OwnFigure(re.sub(r"^\d+ ", "", name), int(match[2].replace(",", "")))


def _jemalloc(lines: Iterable[str]) -> Iterable[OwnFigure]:
    for line in lines:
        if line.startswith("Allocated: "):
            for name, size in _JEMALLOC.findall(line):
                yield OwnFigure(name.lower(), int(size))
            return


def _mimalloc(lines: Iterable[str]) -> Iterable[OwnFigure]:
    """Columns: peak, total, freed, current."""
    for line in lines:
        match = _MIMALLOC.match(line)
        if match:
            yield OwnFigure(f"{match[1]} peak", _bytes(match[2]))
            yield OwnFigure(f"{match[1]} current", _bytes(match[5]))


def _bytes(size: str) -> int:
    """``64.0 MiB`` or ``0``."""
    number, _, unit = size.partition(" ")
    return round(float(number) * _UNITS.get(unit or "B", 1))


def _tcmalloc(lines: Iterable[str]) -> Iterable[OwnFigure]:
    for line in lines:
        match = _TCMALLOC.match(line)
        if match:
            yield OwnFigure(match[2].lower(), int(match[1]))


_READERS: dict[str, Callable[[Iterable[str]], Iterable[OwnFigure]]] = {
    "CPython": _cpython,
    "jemalloc": _jemalloc,
    "mimalloc": _mimalloc,
    "tcmalloc": _tcmalloc,
}
