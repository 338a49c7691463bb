"""What malloc_trim(0) will release: glibc's rule (malloc.c, mtrim and systrim), applied to the
oracle's chunks.

Fastbin chunks are merged with their free neighbours first; what then touches top becomes part of
it. Every free run gives back the whole pages that lie behind its first 48 bytes, if it is longer
than a page and 47 bytes more. The main arena's top gives back all but 33 bytes to a page, if it
ends at the break. Other tops stay as they are.
"""

from __future__ import annotations

import os
import struct

from oracle.memory import PAGE, mappings
from oracle.walk import Sums

CHUNK_STRUCT, MINSIZE = 48, 32
PRESENT = 1 << 63
Range = tuple[int, int]


def ranges(sums: Sums, is_main: bool, heap_end: int) -> list[Range]:
    """The pages of one arena that will go, resident or not. ``heap_end``: the end of the brk
    heap."""
    merged, top_start = _free_runs(sums)
    top_end = sums.top + sums.top_bytes
    going = []
    for start, end in merged:
        if end - start >= PAGE + CHUNK_STRUCT:
            first = _up(start + CHUNK_STRUCT)
            if first < _down(end):
                going.append((first, _down(end)))
    if is_main and top_end == heap_end:
        extra = _down(top_end - top_start - MINSIZE - 1)
        if extra > 0:
            going.append((top_end - extra, top_end))
    return going


def resident_bytes(pid: int, wanted: list[Range]) -> int:
    """How much of page-aligned ranges is present, by /proc/PID/pagemap."""
    total = 0
    descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for start, end in wanted:
            entries = os.pread(descriptor, (end - start) // PAGE * 8, start // PAGE * 8)
            total += sum(PAGE for (entry,) in struct.iter_unpack("<Q", entries) if entry & PRESENT)
    finally:
        os.close(descriptor)
    return total


def heap_end(pid: int) -> int:
    """The end of the mapping called [heap]; 0 without one."""
    return max((m.end for m in mappings(pid) if m.name == "[heap]"), default=0)


def extent(sums: Sums) -> list[Range]:
    """The pages that hold an arena's chunks, its top included."""
    pages = [(_down(start), _up(start + max(size, 16))) for start, size, _ in sums.chunks]
    pages.append((_down(sums.top), _up(sums.top + sums.top_bytes)))
    joined: list[Range] = []
    for start, end in sorted(pages):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _free_runs(sums: Sums) -> tuple[list[Range], int]:
    """Runs of adjacent free chunks, and where top begins once the run that touches it has joined
    it."""
    runs: list[Range] = []
    for start, size, kind in sums.chunks:
        if kind not in ("bin", "fastbin"):
            continue
        if runs and runs[-1][1] == start:
            runs[-1] = (runs[-1][0], start + size)
        else:
            runs.append((start, start + size))
    top = next((start for start, end in runs if end == sums.top), sums.top)
    return [run for run in runs if run[1] != sums.top], top


def _up(address: int) -> int:
    return (address + PAGE - 1) & ~(PAGE - 1)


def _down(address: int) -> int:
    return address & ~(PAGE - 1)
