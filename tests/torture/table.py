"""The results of the torture test: kept as docs/torture.json, shown as docs/torture.md.

Rule: a part that is run again replaces its own results only. Each carries its date, its command and
the machine, so the long form may be run in pieces, and a figure is never older than it says.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS, PAGE = DOCS / "torture.json", DOCS / "torture.md"

INTRODUCTION = """\
# What was tried to break a process

Figures as measured by `./dev torture`, which writes this page; `./dev check` runs a short form of
the same. Every run ends with the first harm that it finds, so each row says: so many times, and the
target was alive, no thread of it stood still or was traced, no child and no descriptor was left,
every mask, byte, sum and result of a system call was what the target itself expected.

The targets run at `nice 19` beside whatever else the machine does, so the longest pauses are mostly
waits for a CPU; `./dev bench` has the pauses themselves.
"""
STORMS = """\
## Snapshots and trims of programs that check themselves

`storm-16`: 16 threads that allocate, resize, align and free without end, checking each byte and
handing blocks to each other. `storm-1`: the same by one thread alone, where malloc takes no lock.
`calls`: threads that live in nanosleep, poll, epoll_wait, sigtimedwait, futex, read, vfork and
exec, and in signal handlers that allocate, on their own and on alternate stacks. The thread that is
used is drawn by lot from those that allocscope holds for fit. Refused: no thread was fit within
20 s. Interruptions are EINTR from epoll_wait and sigtimedwait, which these return after any stop
(signal(7)); anywhere else one would be an error.
"""
STEPS = """\
## SIGKILL at every request of ptrace

One run for each request that an undisturbed run makes; strace kills the process on entering it.
After each kill the target is examined. `snapshot`: a copy, and the copy of it that a debugger
gets; `rehearse` and `trim`: `trim --rehearse` and `trim --apply`; `clean`: `doctor --clean`, each
time with something to take away; `ask`: glibc's answers by gdb in a copy. `zombies`: dead copies,
the most at a time; the next run collects them.
"""
INSTANTS = """\
## SIGKILL at random instants

On a target of 2 GiB, where making the copy alone takes tens of milliseconds. `runs` that were over
before the kill came do not count.
"""

LAZYFREE = """\
## Reclaim against a program that frees and rewrites

Two threads mark pages with `MADV_FREE`, write to them again, and check at random what a page holds:
what was written to it last, or zeros where it was given back since. `lazyfree --reclaim` runs
meanwhile, one after the other. `gone`: checks that found a page which the kernel had taken.
"""
REFUSED = """\
## Without overcommit

`vm.overcommit_memory` 2, the limit so many GiB above what the machine had granted: too little for a
copy of a program that maps 9 GiB, or for the copy of that copy, in which functions run. `exit` is
the status that the command ends with (7: refused, [exit-codes.md](exit-codes.md)). Afterwards the
program had what it held, no child, no tracer.
"""

_MS = 1e6
_Column = tuple[str, Callable[[dict[str, Any]], object]]


def _plain(title: str, key: str) -> _Column:
    return title, lambda row: f"{row[key]:,}" if isinstance(row[key], int) else row[key]


_STORM_COLUMNS: tuple[_Column, ...] = (
    _plain("program", "program"),
    _plain("glibc", "glibc"),
    _plain("snapshots", "snapshots"),
    _plain("trims", "trims"),
    ("refused", lambda row: row["snapshots_refused"] + row["trims_refused"]),
    _plain("checks", "checks"),
    _plain("interruptions", "interruptions"),
    ("longest pause, snapshot, ms", lambda row: round(row["longest_snapshot_pause_ns"] / _MS, 1)),
    ("longest trim, ms", lambda row: round(row["longest_trim_ns"] / _MS, 1)),
    _plain("s", "seconds"),
)
_KILL_COLUMNS: tuple[_Column, ...] = (
    _plain("program", "program"),
    _plain("what is done", "action"),
    _plain("who is killed", "victim"),
    _plain("runs", "runs"),
    _plain("killed", "killed"),
    _plain("zombies", "zombies"),
    _plain("s", "seconds"),
)
_REFUSED_COLUMNS: tuple[_Column, ...] = (
    _plain("what is asked", "action"),
    _plain("room, GiB", "room_gib"),
    _plain("exit", "exit"),
    _plain("what is said", "said"),
    _plain("s", "seconds"),
)
_LAZYFREE_COLUMNS: tuple[_Column, ...] = (
    ("swap", lambda row: "yes" if row["swap"] else "no"),
    _plain("checks", "checks"),
    _plain("wrong", "wrong"),
    _plain("pages marked", "marked_pages"),
    _plain("rewritten", "rewritten_pages"),
    _plain("gone", "vanished_pages"),
    _plain("reclaims", "reclaims"),
    ("reclaimed, MiB", lambda row: row["released_bytes"] >> 20),
    ("swapped out, KiB", lambda row: row["swapped_bytes"] >> 10),
    _plain("s", "seconds"),
)
_SECTIONS = (
    (STORMS, ("storm-16", "storm-1", "calls"), _STORM_COLUMNS),
    (STEPS, ("steps",), _KILL_COLUMNS),
    (INSTANTS, ("instants",), _KILL_COLUMNS),
    (LAZYFREE, ("lazyfree",), _LAZYFREE_COLUMNS),
    (REFUSED, ("overcommit",), _REFUSED_COLUMNS),
)


def keep(part: str, command: str, rows: Sequence[Any]) -> None:
    """Puts the rows (dataclasses) of one part among the results, and writes the page anew."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    system = os.uname()
    results[part] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": command,
        "machine": f"Linux {system.release.partition('-')[0]}, {os.cpu_count()} CPUs",
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(results))


def page(results: dict[str, Any]) -> str:
    """The whole of docs/torture.md; parts that were never run are named as such."""
    blocks = [INTRODUCTION]
    for text, parts, columns in _SECTIONS:
        blocks.append(text)
        rows = [row for part in parts if part in results for row in results[part]["rows"]]
        if rows:
            blocks.append(_table(rows, columns))
        for part in parts:
            found = results.get(part)
            blocks.append(
                f"`{part}`: {found['date']}, `{found['command']}`, {found['machine']}.\n"
                if found
                else f"`{part}`: not run yet.\n"
            )
    return "\n".join(blocks)


def _table(rows: list[dict[str, Any]], columns: Sequence[_Column]) -> str:
    lines = [" | ".join(title for title, _ in columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(str(cell(row)) for _, cell in columns) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)
