"""/proc/PID/smaps and /proc/PID/smaps_rollup: the kernel's figures, per mapping and in total.

Strategy: a header line begins with a hex digit, a figure with a capital letter, the first figure of
each mapping is its size, and a path cannot hold a newline (the kernel escapes it). The same figures
come again and again in a process with very many mappings, so each distinct block of lines is read
once.

Rules: sizes are printed in units of 1024 bytes; lines that are not known are passed over; a text
that ends within a line, or in which a mapping lacks its figures, is an error and no shorter answer.

Source: proc_pid_smaps(5); ``__show_smap`` in fs/proc/task_mmu.c. ``LazyFree`` exists since Linux
4.12, ``Pss_Anon`` and its like since 5.0.
"""

from __future__ import annotations

from itertools import pairwise

from allocscope.errors import BadInput
from allocscope.model.process import SmapsEntry, SmapsRollup
from allocscope.parse import maps

_HEX_DIGITS = frozenset(b"0123456789abcdef")
_CAPITALS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_FIRST_FIGURE = b"\nSize:"
NOT_SMAPS = "smaps: the text is cut off, or is not smaps"


def parse(data: bytes) -> tuple[SmapsEntry, ...]:
    """All mappings with their figures, in the kernel's order; a line that an old kernel lacks
    counts as 0.

    Raises BadInput when the text is truncated or is not smaps.
    """
    blocks = _cut(data)
    headers = (header.decode("utf-8", "surrogateescape") for header, _ in blocks)
    known: dict[bytes, tuple[int, ...]] = {}
    entries = []
    for mapping, (_, block) in zip(maps.parse_lines(headers), blocks, strict=True):
        figures = known.get(block)
        if figures is None:
            figures = known[block] = _entry_figures(block)
        entries.append(SmapsEntry(mapping, *figures))
    return tuple(entries)


def rollup(data: bytes) -> SmapsRollup:
    """The one block of smaps_rollup. Raises BadInput when the text is truncated or is something
    else."""
    header, _, block = data.partition(b"\n")
    return _rollup(_figures(_checked(header, block)[1]))


def total(data: bytes) -> SmapsRollup:
    """The same sums from smaps itself, for kernels without smaps_rollup (before 4.14). PSS by kind
    is None: smaps does not tell it. Raises BadInput."""
    sums: dict[str, int] = {}
    for _, block in _cut(data):
        for name, size in _figures(block).items():
            sums[name] = sums.get(name, 0) + size
    return _rollup(sums)


def _rollup(figures: dict[str, int]) -> SmapsRollup:
    try:
        return SmapsRollup(
            rss_bytes=figures["Rss"],
            pss_bytes=figures["Pss"],
            pss_anon_bytes=figures.get("Pss_Anon"),
            pss_file_bytes=figures.get("Pss_File"),
            pss_shmem_bytes=figures.get("Pss_Shmem"),
            shared_clean_bytes=figures["Shared_Clean"],
            shared_dirty_bytes=figures["Shared_Dirty"],
            private_clean_bytes=figures["Private_Clean"],
            private_dirty_bytes=figures["Private_Dirty"],
            anonymous_bytes=figures.get("Anonymous"),
            lazyfree_bytes=figures.get("LazyFree"),
            anon_huge_bytes=figures.get("AnonHugePages"),
            swap_bytes=figures.get("Swap"),
            swap_pss_bytes=figures.get("SwapPss"),
            locked_bytes=figures.get("Locked"),
        )
    except KeyError as error:
        raise BadInput(f"smaps_rollup: the line {error} is missing") from error


def _cut(data: bytes) -> list[tuple[bytes, bytes]]:
    """Pairs of a header line and its block of figures, which together are the whole text."""
    sizes: list[int] = []
    at = data.find(_FIRST_FIGURE)
    while at >= 0:
        sizes.append(at)
        at = data.find(_FIRST_FIGURE, at + 1)
    starts = [data.rfind(b"\n", 0, size) + 1 for size in sizes]
    blocks = [
        _checked(data[start:size], data[size + 1 : end])
        for (start, end), size in zip(pairwise([*starts, len(data)]), sizes, strict=True)
    ]
    if data and starts[:1] != [0]:
        raise BadInput(NOT_SMAPS)
    return blocks


def _checked(header: bytes, block: bytes) -> tuple[bytes, bytes]:
    if not header or header[0] not in _HEX_DIGITS or not block.endswith(b"\n"):
        raise BadInput(NOT_SMAPS)
    return header, block


def _entry_figures(block: bytes) -> tuple[int, ...]:
    """The fields of SmapsEntry behind ``mapping``, in its order, in bytes."""
    figures = _figures(block)
    if "Rss" not in figures:
        raise BadInput(f"smaps: a mapping without its Rss line: {block[:80]!r}")
    return (
        figures["Rss"],
        figures.get("Private_Dirty", 0),
        figures.get("Private_Clean", 0),
        figures.get("LazyFree", 0),
        figures.get("Swap", 0),
        figures.get("Anonymous", 0),
        figures.get("AnonHugePages", 0),
        figures.get("Locked", 0),
    )


def _figures(block: bytes) -> dict[str, int]:
    figures = {}
    for line in block.splitlines():
        if line[:1] and line[0] not in _CAPITALS:  # the header of a mapping without figures
            raise BadInput(NOT_SMAPS)
        name, _, value = line.partition(b":")
        size, _, unit = value.lstrip(b" ").partition(b" ")
        if unit == b"kB" and size.isdigit():
            figures[name.decode("ascii", "replace")] = int(size) * 1024
    return figures
