"""Memory with pages that are not read: this process's own."""

from __future__ import annotations

import ctypes
import mmap
import os

import pytest

from allocscope.errors import MemoryGap
from allocscope.proc.memory import ProcessMemory
from allocscope.proc.spared import SparingMemory

PAGE = mmap.PAGESIZE


def test_spared_pages_are_as_if_they_were_not_there() -> None:
    with mmap.mmap(-1, 8 * PAGE) as area:
        for page in range(8):
            area[page * PAGE] = page + 1
        place = ctypes.c_char.from_buffer(area)
        at = ctypes.addressof(place)
        del place
        spared = [(at + 2 * PAGE, at + 4 * PAGE), (at + 5 * PAGE, at + 6 * PAGE)]
        with SparingMemory(os.getpid(), spared) as memory:
            assert memory.runs(at, at + 8 * PAGE) == [
                (at, at + 2 * PAGE),
                (at + 4 * PAGE, at + 5 * PAGE),
                (at + 6 * PAGE, at + 8 * PAGE),
            ]
            places = [at + page * PAGE for page in range(8)]
            found = memory.read_each(places, 1)
            assert found == [b"\1", b"\2", None, None, b"\5", None, b"\7", b"\10"]
            assert memory.read_each([at + 2 * PAGE - 1, at + 4 * PAGE], 2) == [None, b"\5\0"]
            assert memory.read(at + PAGE, PAGE)[:1] == b"\2"
            with pytest.raises(MemoryGap):
                memory.read(at + PAGE, PAGE + 1)


def test_nothing_spared_is_plain_memory() -> None:
    with mmap.mmap(-1, PAGE) as area:
        area[0] = 7
        place = ctypes.c_char.from_buffer(area)
        at = ctypes.addressof(place)
        del place
        with SparingMemory(os.getpid(), []) as memory, ProcessMemory(os.getpid()) as plain:
            assert memory.runs(at, at + PAGE) == plain.runs(at, at + PAGE) == [(at, at + PAGE)]
            assert memory.read(at, 1) == b"\7"
