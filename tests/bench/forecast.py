"""The forecast of a trim against the plain reading: 1 GiB of small chunks.

Both sides are complete answers of the Python functions behind `trim` and `arenas`, by the wall
clock and by processor time, which a busy machine changes less.
"""

from __future__ import annotations

from common import at_most, medians, processor_seconds, seconds

from allocscope import observe
from allocscope.app.trim import TrimOptions, trim
from allocscope.lab import fixture


def measure() -> dict[str, object]:
    with fixture.run("dense", scale=16) as process:
        pid = process.pid

        def forecast() -> object:
            return trim(pid, TrimOptions())

        def plain() -> object:
            return observe(pid)

        wall, plain_wall, busy, plain_busy = medians(
            lambda: seconds(forecast),
            lambda: seconds(plain),
            lambda: processor_seconds(forecast),
            lambda: processor_seconds(plain),
        )
        resident = trim(pid, TrimOptions()).data.resident_bytes
    return {
        "wall_ratio": at_most(
            wall / plain_wall,
            1.2,
            forecast_s=round(wall, 4),
            plain_s=round(plain_wall, 4),
            resident_bytes=resident,
        ),
        "processor_ratio": at_most(
            busy / plain_busy,
            1.2,
            forecast_s=round(busy, 4),
            plain_s=round(plain_busy, 4),
        ),
    }
