"""The forecast of a trim against the plain reading: 1 GiB of small chunks.

Both sides are complete answers of the Python functions behind `trim` and `arenas`; the walk's own
time within each stands beside them.
"""

from __future__ import annotations

from common import at_most, medians, seconds
from walk import walk_seconds

from allocscope import observe
from allocscope.app.trim import TrimOptions, trim
from allocscope.lab import fixture


def measure() -> dict[str, object]:
    with fixture.run("dense", scale=16) as process:
        pid = process.pid
        forecast, plain, forecast_walk, plain_walk = medians(
            lambda: seconds(lambda: trim(pid, TrimOptions())),
            lambda: seconds(lambda: observe(pid)),
            lambda: walk_seconds(lambda: trim(pid, TrimOptions())),
            lambda: walk_seconds(lambda: observe(pid)),
        )
        found = trim(pid, TrimOptions()).data
    return {
        "forecast_ratio": at_most(
            forecast / plain,
            1.2,
            forecast_s=round(forecast, 4),
            plain_s=round(plain, 4),
            resident_bytes=found.resident_bytes,
        ),
        "walk_ratio": at_most(
            forecast_walk / plain_walk,
            1.2,
            forecast_walk_s=round(forecast_walk, 4),
            plain_walk_s=round(plain_walk, 4),
        ),
    }
