"""``arenas PID --json`` against plain gdb with malloc_info, on 9 arenas and 400 MiB of heap.

Debug symbols of libc, where they are installed, make gdb slower, so there are two limits.
"""

from __future__ import annotations

import subprocess

from common import (
    ALLOCSCOPE,
    NO_SYMBOLS,
    answer_of,
    at_most,
    medians,
    plain_gdb,
    run,
    seconds,
    target,
)

WITH_SYMBOLS, WITHOUT_SYMBOLS = 0.5, 0.8


def libc_symbols_installed() -> bool:
    query = ["dpkg-query", "--show", "--showformat=${Status}", "libc6-dbg"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.endswith(" installed")


def measure() -> dict[str, object]:
    with target(threads=8, mib=400) as process:
        pid = str(process.pid)
        ours, gdb, bare = medians(
            lambda: seconds(lambda: run(*ALLOCSCOPE, "arenas", pid, "--json")),
            lambda: seconds(lambda: plain_gdb(process.pid)),
            lambda: seconds(lambda: plain_gdb(process.pid, *NO_SYMBOLS)),
        )
        data = answer_of("arenas", pid)["data"]
    shape = {"arena_count": len(data["arenas"]), "system_bytes": data["totals"]["system_bytes"]}
    figures: dict[str, object] = {
        "wall_time_ratio_without_symbols": at_most(
            ours / bare,
            WITHOUT_SYMBOLS,
            allocscope_s=round(ours, 4),
            gdb_s=round(bare, 4),
            **shape,
        )
    }
    if libc_symbols_installed():
        figures["wall_time_ratio"] = at_most(
            ours / gdb, WITH_SYMBOLS, allocscope_s=round(ours, 4), gdb_s=round(gdb, 4), **shape
        )
    return figures
