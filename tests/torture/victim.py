"""What the torture test kills: one command line, one thing done to a process.

victim.py snapshot PID    a snapshot and the copy of it that a debugger would get
victim.py trim PID        malloc_trim by the process itself
victim.py ask PID         glibc's answers in a copy, by gdb
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from allocscope.act import live_trim
from allocscope.act.snapshot import CopyPlan, frozen
from allocscope.app.ask import ask
from allocscope.app.target import find_malloc, look
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


def trim(pid: int) -> None:
    target = look(pid)
    with ProcessMemory(pid) as memory:
        located, image = find_malloc(memory, target)
    live_trim.trim(pid, image, located, deadline_ns=_deadline_ns())


def gdb_asks(pid: int) -> None:
    ask(pid, what="both", live=False, max_pause_ns=_MAX_PAUSE_NS, deadline_s=_DEADLINE_S)


def _deadline_ns() -> int:
    return time.monotonic_ns() + _DEADLINE_S * 1_000_000_000


ACTIONS: dict[str, Callable[[int], None]] = {"snapshot": snapshot, "trim": trim, "ask": gdb_asks}

if __name__ == "__main__":
    try:
        ACTIONS[sys.argv[1]](int(sys.argv[2]))
    except Unsafe as error:  # gdb may be what is killed; the target is what matters
        sys.exit(f"{error.message}")
