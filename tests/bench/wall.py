"""``arenas PID --json`` against plain gdb with malloc_info, on 9 arenas and 400 MiB of heap.

The limit depends on whether gdb has libc's debug symbols to read, which makes it slower.
"""

from __future__ import annotations

import subprocess

from common import ALLOCSCOPE, answer_of, at_most, medians, plain_gdb, run, seconds, target

WITH_SYMBOLS, WITHOUT_SYMBOLS = 0.5, 0.8


def libc_symbols_installed() -> bool:
    query = ["dpkg-query", "--show", "--showformat=${Status}", "libc6-dbg"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return done.stdout.endswith(" installed")


def measure() -> dict[str, object]:
    with target(threads=8, mib=400) as process:
        pid = str(process.pid)
        ours, gdb = medians(
            lambda: seconds(lambda: run(*ALLOCSCOPE, "arenas", pid, "--json")),
            lambda: seconds(lambda: plain_gdb(process.pid)),
        )
        data = answer_of("arenas", pid)["data"]
    symbols = libc_symbols_installed()
    return {
        "wall_time_ratio": at_most(
            ours / gdb,
            WITH_SYMBOLS if symbols else WITHOUT_SYMBOLS,
            allocscope_s=round(ours, 4),
            gdb_s=round(gdb, 4),
            arena_count=len(data["arenas"]),
            system_bytes=data["totals"]["system_bytes"],
            libc6_dbg=symbols,
        )
    }
