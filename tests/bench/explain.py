"""``explain`` against ``arenas``: 1 GiB of small chunks, whole commands.

Both walk the heap once; `explain` also reads smaps and smaps_rollup, and asks each mapping whose it
is. Above 1 GiB of RSS `arenas` leaves smaps alone, so it is asked for it with --exact, too.
"""

from __future__ import annotations

from common import ALLOCSCOPE, answer_of, at_most, medians, run, seconds

from allocscope.lab import fixture


def measure() -> dict[str, object]:
    with fixture.run("dense", scale=16) as process:
        pid = str(process.pid)
        explain, arenas, exact = medians(
            lambda: seconds(lambda: run(*ALLOCSCOPE, "explain", pid, "--json")),
            lambda: seconds(lambda: run(*ALLOCSCOPE, "arenas", pid, "--json")),
            lambda: seconds(lambda: run(*ALLOCSCOPE, "arenas", pid, "--exact", "--json")),
        )
        data = answer_of("explain", pid)["data"]
    return {
        "explain_to_arenas_ratio": at_most(
            explain / arenas,
            1.5,
            explain_s=round(explain, 4),
            arenas_s=round(arenas, 4),
            arenas_exact_s=round(exact, 4),
            rss_bytes=data["rss_bytes"],
            drift_bytes=data["drift_bytes"],
        )
    }
