"""How long the target stands still when glibc is asked: in a snapshot, live, and by plain gdb.

A thread of the target reads the clock without end and tells its longest gap, so that figure does
not come from allocscope. A snapshot stops one other thread only, which that gap cannot see: what
allocscope reports as the pause is therefore held against the same limit. The bare fork is timed by
the target, which forks itself.
"""

from __future__ import annotations

from common import ALLOCSCOPE, answer_of, at_most, medians, plain_gdb, run, seconds, target

MS = 1e6


def measure() -> dict[str, object]:
    with target(threads=8, mib=400) as process:
        pid = str(process.pid)
        ask = [*ALLOCSCOPE, "ask", pid]
        whole, said, fork = medians(
            lambda: seconds(lambda: run(*ask)),
            lambda: answer_of("ask", pid)["method"]["pause_ns"],
            lambda: process.ask("fork", "fork_ns"),
        )
        process.ask("watch", "watch")
        snapshot, live, said_live, gdb = medians(
            lambda: process.longest_stop_ns(lambda: run(*ask)),
            lambda: process.longest_stop_ns(lambda: run(*ask, "--live")),
            lambda: answer_of("ask", pid, "--live")["method"]["pause_ns"],
            lambda: process.longest_stop_ns(lambda: plain_gdb(process.pid)),
        )
    limit = round(1.5 * fork / MS + 5, 3)
    return {
        "snapshot_pause_ms": at_most(said / MS, limit, bare_fork_ms=round(fork / MS, 3)),
        "snapshot_stop_of_others_ms": at_most(snapshot / MS, limit),
        "snapshot_command_s": at_most(whole, 1.0),
        "live_stop_ratio": at_most(
            live / gdb,
            0.25,
            live_ms=round(live / MS, 3),
            live_reported_ms=round(said_live / MS, 3),
            gdb_ms=round(gdb / MS, 3),
        ),
    }
