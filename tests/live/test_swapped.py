"""Malloc's own variables on a swap device: said as that, and not swapped in to find out more."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from live.cli import assert_refused, command
from live.programs import speaking, wait_until
from live.swap import swap
from live.targets import need_root

PROCESS_MADVISE, MADV_PAGEOUT = 440, 21
HOLDS = """
import sys
kept = [bytearray(1000) for _ in range(20000)]
print("ready", flush=True)
sys.stdin.read()
"""


class Span(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("size", ctypes.c_size_t))


def page_out(pid: int, path: str) -> bool:
    """Asks the kernel to swap out what ``pid`` has written in mappings of this name, and says
    whether all of it is. Pages that wait in a processor's batch stay, until that is worked off."""
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(pid)
    try:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            words = line.split()
            if words[-1].endswith(path) and "w" in words[1]:
                start, end = (int(word, 16) for word in words[0].split("-"))
                span = Span(start, end - start)
                libc.syscall(PROCESS_MADVISE, process, ctypes.byref(span), 1, MADV_PAGEOUT, 0)
    finally:
        os.close(process)
    return figure(pid, path, "Anonymous") == 0 < figure(pid, path, "Swap")


def figure(pid: int, path: str, name: str) -> int:
    """The kernel's figure of the writable mappings of this name, in KiB."""
    found, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if line[0] in "0123456789abcdef":
            inside = line.endswith(path) and "w" in line.split()[1]
        elif inside and line.startswith(f"{name}:"):
            found += int(line.split()[1])
    return found


def test_mallocs_own_variables_are_swapped_out() -> None:
    need_root()
    with swap(), speaking([sys.executable, "-c", HOLDS]) as pid:
        wait_until("libc's variables are away", lambda: page_out(pid, "/libc.so.6"))
        away = figure(pid, "/libc.so.6", "Swap")
        for verb in ("arenas", "explain", "trim", "pins"):
            done = command(verb, str(pid))
            assert_refused(done, 5, "variables swapped out", "--ask-glibc")
        assert command("map", str(pid)).returncode == 0
        assert figure(pid, "/libc.so.6", "Swap") == away, "looking at it swapped it in"
