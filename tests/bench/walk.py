"""The chunk walk against plain reading of the same bytes: 1 GiB of small chunks.

Plain reading is process_vm_readv in blocks of 1 MiB into one buffer, nothing looked at. The walk's
time is that of the walker's own calls, and of what reads memory ahead for them, inside a complete
reading.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Iterator
from unittest import mock

from common import ALLOCSCOPE, at_least, at_most, medians, run, seconds

from allocscope import observe
from allocscope.lab import fixture
from allocscope.proc.memory import ProcessMemory

BLOCK = 1 << 20
LIBC = ctypes.CDLL(None, use_errno=True)


class Vector(ctypes.Structure):
    """struct iovec of <sys/uio.h>."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


def blocks(pieces: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, end in pieces:
        for address in range(start, end, BLOCK):
            yield address, min(BLOCK, end - address)


def read_plainly(pid: int, pieces: list[tuple[int, int]]) -> int:
    """Reads all of ``pieces`` and returns how many bytes that were. OSError when one fails."""
    buffer = ctypes.create_string_buffer(BLOCK)
    local, remote = Vector(ctypes.addressof(buffer), BLOCK), Vector()
    total = 0
    for address, size in blocks(pieces):
        local.size = remote.size = size
        remote.base = address
        count = LIBC.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        if count != size:
            raise OSError(ctypes.get_errno(), f"{count} of {size} bytes read at {address:#x}")
        total += count
    return total


def walk_seconds(pid: int) -> float:
    """The time that the walker takes within one reading of ``pid``."""
    spent = 0.0
    walk, keeping = ProcessMemory.walk, ProcessMemory.keeping

    def timed(self, region):  # type: ignore[no-untyped-def]
        nonlocal spent
        begun = time.perf_counter()
        tally = walk(self, region)
        spent += time.perf_counter() - begun
        return tally

    @contextlib.contextmanager
    def timed_keeping(self, rows, top):  # type: ignore[no-untyped-def]
        nonlocal spent
        begun = time.perf_counter()
        with keeping(self, rows, top):
            spent += time.perf_counter() - begun
            yield

    with (
        mock.patch.object(ProcessMemory, "walk", timed),
        mock.patch.object(ProcessMemory, "keeping", timed_keeping),
    ):
        observe(pid)
    return spent


def measure() -> dict[str, object]:
    with fixture.run("dense", scale=16) as process:
        pid = process.pid
        report = observe(pid)
        pieces = [(heap.start, heap.end) for a in report.data.arenas for heap in a.heaps]
        size = read_plainly(pid, pieces)
        walked, plain, command = medians(
            lambda: walk_seconds(pid),
            lambda: seconds(lambda: read_plainly(pid, pieces)),
            lambda: seconds(lambda: run(*ALLOCSCOPE, "arenas", str(pid), "--json")),
        )
    totals = report.data.totals
    return {
        "bandwidth_ratio": at_least(
            plain / walked,
            0.7,
            walk_bytes_per_s=round(size / walked),
            plain_bytes_per_s=round(size / plain),
            bytes=size,
            chunk_count=totals.live_count + totals.bin_count + totals.tcache_count,
            processors=len(os.sched_getaffinity(0)),
        ),
        "command_s": at_most(command, 0.6),
    }
