"""malloc_trim in a live process of 64 threads: by `trim --apply`, by gdb, by the process itself.

Each round lets the target call malloc_trim by itself, then applies one, then makes gdb call it. All
three find the same free chunks, whose pages have gone by the first round; the madvise calls remain.
What is measured: how long the thread that makes the call is kept beyond the call; and for how long
a thread that never waits, and reads the clock without end, stood still at most. That gap holds what
the machine's other work takes, so it stands beside the one while the same command only forecasts.
"""

from __future__ import annotations

import statistics
from typing import NamedTuple

from common import ALLOCSCOPE, ROUNDS, Target, answer_of, at_most, run, target

MS = 1e6
THREADS, MIB = 62, 256
"""Besides these: the main thread, and the one that reads the clock."""
CALL_MALLOC_TRIM = "call (int)malloc_trim(0)"


class Round(NamedTuple):
    """All in ns."""

    own_call: int
    call: int
    pause: int
    others_forecast: int
    others_applied: int
    others_gdb: int


def measure() -> dict[str, object]:
    with target(threads=THREADS, mib=MIB) as process:
        process.ask("watch", "watch")
        rows = [_round(process) for _ in range(ROUNDS + 1)][1:]
    middle = Round(*(int(statistics.median(column)) for column in zip(*rows, strict=True)))
    shown = {f"{name}_ms": round(value / MS, 3) for name, value in middle._asdict().items()}
    return {
        "pause_beyond_the_call_ms": at_most(
            middle.pause / MS,
            2.0,
            longest_ms=round(max(row.pause for row in rows) / MS, 3),
            call_ms=shown["call_ms"],
            own_call_ms=shown["own_call_ms"],
        ),
        "pause_against_gdb_ratio": at_most(
            middle.pause / middle.others_gdb, 0.01, gdb_ms=shown["others_gdb_ms"]
        ),
        "longest_stop_of_others": {
            "applied_ms": shown["others_applied_ms"],
            "forecast_only_ms": shown["others_forecast_ms"],
            "gdb_ms": shown["others_gdb_ms"],
        },
    }


def _round(process: Target) -> Round:
    pid = str(process.pid)
    own = process.ask("trim", "trim_ns")
    applied = answer_of("trim", pid, "--apply")["data"]["applied"]
    return Round(
        own_call=own,
        call=applied["duration_ns"],
        pause=applied["pause_ns"],
        others_forecast=process.longest_stop_ns(lambda: run(*ALLOCSCOPE, "trim", pid)),
        others_applied=process.longest_stop_ns(lambda: run(*ALLOCSCOPE, "trim", pid, "--apply")),
        others_gdb=process.longest_stop_ns(
            lambda: run("gdb", "--batch", "-p", pid, "-ex", CALL_MALLOC_TRIM)
        ),
    )
