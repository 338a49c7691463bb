"""Each thread's tcache, found by its thread pointer, for which the thread is stopped for a moment.

glibc keeps the pointer to the tcache in static thread-local storage, which on x86-64 lies right
below the thread pointer. So it is the one word there that is the address of a chunk of the
tcache's size.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from oracle import OracleError
from oracle.layout import Layout
from oracle.memory import Memory

STATIC_TLS_BYTES = 0x400
SEIZE, INTERRUPT, GETREGS, DETACH = 0x4206, 0x4207, 12, 17
WALL = 0x40000000
REGISTERS, FS_BASE = 27, 21

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def tcaches(memory: Memory, layout: Layout, is_chunk: Callable[[int], bool]) -> dict[int, int]:
    """Thread id to address of its tcache struct, for the threads that have one. ``is_chunk``: is
    there a chunk of an arena at this address?"""
    found = {}
    for task in (int(path.name) for path in Path(f"/proc/{memory.pid}/task").iterdir()):
        pointer = _thread_pointer(task)
        words = {memory[address] for address in range(pointer - STATIC_TLS_BYTES, pointer, 8)}
        structs = [
            word
            for word in words
            if word % 16 == 0
            and is_chunk(word - 16)
            and memory[word - 8] & ~7 in layout.tcache_chunks
        ]
        if len(structs) > 1:
            raise OracleError(f"thread {task} has {len(structs)} words that may be its tcache")
        if structs:
            found[task] = structs[0]
    return found


def _thread_pointer(task: int) -> int:
    registers = (ctypes.c_ulonglong * REGISTERS)()
    with _stopped(task):
        _ptrace(GETREGS, task, ctypes.addressof(registers))
    return registers[FS_BASE]


@contextlib.contextmanager
def _stopped(task: int) -> Iterator[None]:
    _ptrace(SEIZE, task, 0)
    try:
        _ptrace(INTERRUPT, task, 0)
        os.waitpid(task, WALL)
        yield
    finally:
        _ptrace(DETACH, task, 0)


def _ptrace(request: int, task: int, data: int) -> None:
    if _libc.ptrace(request, task, None, data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
