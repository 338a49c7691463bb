"""Pages that the kernel is just moving: resident, whatever their entries look like meanwhile.

The page map of a source is exchanged for a file of the test's own (the descriptor stays the same),
in which an entry changes when the reader has seen it: when it waits.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocscope.model.walk import Residency
from allocscope.proc.memory import ProcessMemory

PAGE = 4096
FIRST = 1 << 32
PRESENT, SWAPPED = 1 << 63, 1 << 62
MIGRATION, DEVICE = 30, 3
"""SWP_MIGRATION_WRITE without device memory (linux/swap.h), and the fourth swap device."""
SLEEPS = ("35 ", "230 ")
"""nanosleep and clock_nanosleep on x86-64, as /proc/PID/syscall tells them."""


def swap_entry(kind: int) -> int:
    return SWAPPED | 12345 << 5 | kind


class PageMap:
    """Entries in a file, from the page FIRST on."""

    def __init__(self, path: Path, entries: list[int]) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT)
        for page, entry in enumerate(entries):
            self.write(page, entry)

    def write(self, page: int, entry: int) -> None:
        os.pwrite(self.file, struct.pack("<Q", entry), (FIRST // PAGE + page) * 8)


@contextlib.contextmanager
def reading(entries: list[int], path: Path) -> Iterator[tuple[ProcessMemory, PageMap]]:
    page_map = PageMap(path, entries)
    with ProcessMemory(os.getpid(), use_pagemap_scan=False) as memory:
        [descriptor] = [
            int(fd.name)
            for fd in Path("/proc/self/fd").iterdir()
            if os.path.lexists(fd) and str(fd.readlink()) == f"/proc/{os.getpid()}/pagemap"
        ]
        os.dup2(page_map.file, descriptor)
        yield memory, page_map
    os.close(page_map.file)


def residency(memory: ProcessMemory, pages: int) -> Residency:
    return memory.residency(FIRST, FIRST + pages * PAGE)


def test_a_page_that_arrives_is_resident(tmp_path: Path) -> None:
    moving = swap_entry(MIGRATION)
    with reading([PRESENT, moving, swap_entry(DEVICE), 0], tmp_path / "map") as (memory, page_map):
        reader = Path(f"/proc/self/task/{threading.get_native_id()}/syscall")

        def arrive() -> None:
            while not reader.read_text().startswith(SLEEPS):
                pass
            page_map.write(1, PRESENT)

        mover = threading.Thread(target=arrive)
        mover.start()
        found = residency(memory, 4)
        mover.join()
    assert (found.resident_bytes, found.swapped_bytes) == (2 * PAGE, PAGE)


def test_a_page_that_never_arrives_does_not_hold_anybody_up_for_ever(tmp_path: Path) -> None:
    """A poisoned page and a marker look alike."""
    with reading([swap_entry(MIGRATION)] * 3, tmp_path / "map") as (memory, _):
        found = residency(memory, 3)
    assert (found.resident_bytes, found.swapped_bytes) == (0, 3 * PAGE)


@pytest.mark.parametrize("kind", [0, DEVICE, 19])
def test_a_page_on_a_swap_device_is_swapped(kind: int, tmp_path: Path) -> None:
    with reading([swap_entry(kind), PRESENT], tmp_path / "map") as (memory, _):
        found = residency(memory, 2)
    assert (found.resident_bytes, found.swapped_bytes) == (PAGE, PAGE)
