"""What is refused, and how, where the kernel grants no more memory than it has (overcommit 2).

    PYTHONPATH=tests python -m torture.overcommit

By hand only, as root: the setting is the whole machine's. Strategy: a target maps much private
memory and touches next to none; the limit is set so far above what is granted now that its copy, or
the copy of the copy, would exceed it, while everybody else keeps gigabytes. All modules are loaded
before that and each call is made in this process, so the machine is back to what it was within
seconds. Afterwards the target is asked what it holds. The figures go into docs/torture.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from allocscope.app.arenas import ArenasOptions
from allocscope.app.arenas_frozen import arenas_frozen
from allocscope.app.ask import ask
from allocscope.app.trim import TrimOptions
from allocscope.app.trim_rehearse import rehearse
from allocscope.errors import Unsafe
from torture import table

MAPPED_GIB = 9
ROOMS_GIB = (7, 14)
"""Too little for one copy; for the copy of a copy."""
ANY_PAUSE_NS = 10**10
ACTIONS: dict[str, Callable[[int], object]] = {
    "trim --rehearse": lambda pid: rehearse(pid, TrimOptions(), max_pause_ns=ANY_PAUSE_NS),
    "arenas --snapshot": lambda pid: arenas_frozen(
        pid, ArenasOptions(), ask_glibc=False, max_pause_ns=ANY_PAUSE_NS
    ),
    "ask": lambda pid: ask(
        pid, what="malloc_info", live=False, max_pause_ns=ANY_PAUSE_NS, deadline_s=20
    ),
}
TARGET = f"""
import mmap, sys
area = mmap.mmap(-1, {MAPPED_GIB} << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area[5 << 20] = 7
held = [bytes([i % 256]) * 1000 for i in range(20000)]
print("ready", flush=True)
for _ in sys.stdin:
    print(area[5 << 20], all(b == bytes([i % 256]) * 1000 for i, b in enumerate(held)), flush=True)
"""


@dataclasses.dataclass
class Row:
    """``exit``: the status that the command would end with. ``seconds``: until it was known."""

    action: str
    room_gib: int
    exit: int
    said: str
    seconds: float


@contextlib.contextmanager
def never_overcommit(room_gib: int) -> Iterator[None]:
    """So many GiB above what is granted now, and no more."""
    settings = Path("/proc/sys/vm")
    before = {
        name: (settings / name).read_text() for name in ("overcommit_memory", "overcommit_ratio")
    }
    granted = Path("/proc/meminfo").read_text().partition("Committed_AS:")[2].split()[0]
    try:
        (settings / "overcommit_kbytes").write_text(str(int(granted) + (room_gib << 20)))
        (settings / "overcommit_memory").write_text("2")
        yield
    finally:
        for name, value in before.items():  # the ratio takes the place of the kilobytes again
            (settings / name).write_text(value)


def rows() -> Iterator[Row]:
    with subprocess.Popen(
        [sys.executable, "-c", TARGET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as target:
        assert target.stdin and target.stdout
        assert target.stdout.readline() == "ready\n"
        for action in ACTIONS.values():
            action(target.pid)
        for room_gib in ROOMS_GIB:
            with never_overcommit(room_gib):
                made = [_try(name, target.pid, room_gib) for name in ACTIONS]
            yield from made
        target.stdin.write("\n")
        target.stdin.flush()
        assert target.stdout.readline() == "7 True\n"
        status = Path(f"/proc/{target.pid}/status").read_text()
        assert "TracerPid:\t0" in status and "State:\tS" in status
        assert not Path(f"/proc/{target.pid}/task/{target.pid}/children").read_text()


def _try(name: str, pid: int, room_gib: int) -> Row:
    begun = time.monotonic()
    status, said = 0, "answered"
    try:
        ACTIONS[name](pid)
    except Unsafe as error:
        status, said = error.exit_code, error.message.replace(str(pid), "PID")
    return Row(name, room_gib, status, said, round(time.monotonic() - begun, 2))


if __name__ == "__main__":
    found = list(rows())
    for row in found:
        print(dataclasses.asdict(row))
    table.keep("overcommit", "PYTHONPATH=tests python -m torture.overcommit", found)
