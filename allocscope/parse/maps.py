"""/proc/PID/maps, and the header lines of smaps, which look the same.

Strategy: a process may have 65,000 mappings (``vm.max_map_count``), most of which differ in their
addresses only. So everything behind the addresses is parsed once per distinct text, and the
addresses alone once per line.

Rules: a line ends at ``\\n`` and nowhere else (the kernel writes a newline inside a path as
``\\012``); a path is kept exactly as it was printed, `` (deleted)`` included.

Source: proc_pid_maps(5); ``show_map_vma`` in fs/proc/task_mmu.c.
"""

from __future__ import annotations

from collections.abc import Iterable

from allocscope.errors import BadInput
from allocscope.immutable import names_of
from allocscope.model.process import Mapping

# A frozen dataclass sets its fields through object.__setattr__, by name; going to the slots
# directly halves the time of a long listing (65,000 mappings: 70 instead of 110 ms).
_set_start, _set_end, _set_perms, _set_offset, _set_device, _set_inode, _set_path = (
    getattr(Mapping, name).__set__ for name in names_of(Mapping)
)

_Tail = tuple[str, int, str, int, str]


def parse(text: str | bytes) -> tuple[Mapping, ...]:
    """All mappings, in the kernel's order (ascending addresses).

    Raises BadInput, naming the line, when a line is not one of maps.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    if lines[-1]:
        raise BadInput(f"maps: the last line is cut off: {_shorten(lines[-1])}")
    lines.pop()
    return parse_lines(lines)


def parse_lines(lines: Iterable[str]) -> tuple[Mapping, ...]:
    """The same for lines that are split already, without their newline."""
    new = object.__new__
    tails: dict[str, _Tail] = {}
    mappings = []
    for line in lines:
        span, _, rest = line.partition(" ")
        start, _, end = span.partition("-")
        try:
            tail = tails.get(rest)
            if tail is None:
                tail = tails[rest] = _parse_tail(rest)
            mapping = new(Mapping)
            _set_start(mapping, int(start, 16))
            _set_end(mapping, int(end, 16))
        except ValueError as error:
            raise BadInput(f"maps: this is not a line of it: {_shorten(line)}") from error
        _set_perms(mapping, tail[0])
        _set_offset(mapping, tail[1])
        _set_device(mapping, tail[2])
        _set_inode(mapping, tail[3])
        _set_path(mapping, tail[4])
        mappings.append(mapping)
    return tuple(mappings)


def unescape(path: str) -> str:
    """The path as the file system knows it: the kernel's ``\\012`` turned back into a newline.

    A name that really holds those four characters is printed in the same way, so a caller tries
    both.
    """
    return path.replace("\\012", "\n")


def _parse_tail(rest: str) -> _Tail:
    """``rw-p 00001000 fe:00 1234   /path``, the path may be missing. Raises ValueError."""
    perms, offset, device, inode, *path = rest.split(None, 4)
    if len(perms) != 4:
        raise ValueError("four letters of permissions expected")
    return perms, int(offset, 16), device, int(inode), path[0] if path else ""


def _shorten(line: str) -> str:
    return ascii(line[:80])
