"""What the torture test kills: one command line, one thing done to a process.

victim.py snapshot PID    a snapshot and the copy of it that a debugger would get
victim.py rehearse PID    malloc_trim in a copy
victim.py trim PID        malloc_trim by the process itself
victim.py ask PID         glibc's answers in a copy, by gdb
victim.py clean PID       taking away what a killed run has left
victim.py hold PID        a snapshot that is held until stdin ends: for being killed, and so leaving
                          something to be taken away
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from allocscope.act import clean as act_clean
from allocscope.act import live_trim
from allocscope.act.snapshot import CopyPlan, frozen
from allocscope.app.ask import ask
from allocscope.app.target import find_malloc, look
from allocscope.app.trim import TrimOptions
from allocscope.app.trim_rehearse import rehearse as app_rehearse
from allocscope.errors import Unsafe
from allocscope.proc.memory import ProcessMemory

_DEADLINE_S = 30
_MAX_PAUSE_NS = 5_000_000_000


def snapshot(pid: int) -> None:
    with (
        frozen(pid, max_pause_ns=_MAX_PAUSE_NS, deadline_ns=_deadline_ns()) as taken,
        taken.disposable(CopyPlan((), None, None)),
    ):
        pass


def hold(pid: int) -> None:
    with frozen(pid, max_pause_ns=_MAX_PAUSE_NS, deadline_ns=_deadline_ns()):
        print("held", flush=True)
        sys.stdin.read()


def clean(pid: int) -> None:
    act_clean.clean(pid, _deadline_ns())


def rehearse(pid: int) -> None:
    app_rehearse(pid, TrimOptions(), max_pause_ns=_MAX_PAUSE_NS)


def trim(pid: int) -> None:
    target = look(pid)
    with ProcessMemory(pid) as memory:
        located, image = find_malloc(memory, target)
    live_trim.trim(pid, image, located, deadline_ns=_deadline_ns())


def gdb_asks(pid: int) -> None:
    ask(pid, what="both", live=False, max_pause_ns=_MAX_PAUSE_NS, deadline_s=_DEADLINE_S)


def _deadline_ns() -> int:
    return time.monotonic_ns() + _DEADLINE_S * 1_000_000_000


ACTIONS: dict[str, Callable[[int], None]] = {
    "snapshot": snapshot,
    "rehearse": rehearse,
    "trim": trim,
    "ask": gdb_asks,
    "clean": clean,
    "hold": hold,
}

if __name__ == "__main__":
    try:
        ACTIONS[sys.argv[1]](int(sys.argv[2]))
    except Unsafe as error:  # gdb may be what is killed; the target is what matters
        sys.exit(f"{error.message}")
