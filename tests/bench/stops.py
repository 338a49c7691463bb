"""How long the target stands still when glibc is asked: in a snapshot, live, and by plain gdb.

A thread of the target reads the clock without end and tells its longest gap, so the figure does
not come from allocscope. What allocscope itself reports as the pause stands beside it. The bare
fork is timed by the target, which forks itself.
"""

from __future__ import annotations

from common import ALLOCSCOPE, answer_of, at_most, medians, plain_gdb, run, seconds, target

MS = 1e6


def measure() -> dict[str, object]:
    with target(threads=8, mib=400) as process:
        pid = str(process.pid)
        ask = [*ALLOCSCOPE, "ask", pid]
        snapshot, live, gdb, fork, whole = medians(
            lambda: process.longest_stop_ns(lambda: run(*ask)),
            lambda: process.longest_stop_ns(lambda: run(*ask, "--live")),
            lambda: process.longest_stop_ns(lambda: plain_gdb(process.pid)),
            lambda: process.ask("fork", "fork_ns"),
            lambda: seconds(lambda: run(*ask)),
        )
        said = answer_of("ask", pid)["method"]["pause_ns"]
        said_live = answer_of("ask", pid, "--live")["method"]["pause_ns"]
    return {
        "snapshot_stop_ms": at_most(
            snapshot / MS,
            round(1.5 * fork / MS + 5, 3),
            reported_ms=round(said / MS, 3),
            bare_fork_ms=round(fork / MS, 3),
        ),
        "snapshot_command_s": at_most(whole, 1.0),
        "live_stop_ratio": at_most(
            live / gdb,
            0.25,
            live_ms=round(live / MS, 3),
            live_reported_ms=round(said_live / MS, 3),
            gdb_ms=round(gdb / MS, 3),
        ),
    }
