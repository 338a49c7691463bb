"""allocscope's own peak memory while it reads a process of 8 GiB."""

from __future__ import annotations

import os
import resource
from pathlib import Path

from common import ALLOCSCOPE, at_most

from allocscope.lab import fixture

GIB = 1 << 30
LIMIT_BYTES = 100_000_000
SCALE = 128  # of the fixture's 64 MiB


def available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def usage_of(*command: str) -> resource.struct_rusage:
    """What a command used, as wait4 tells it; ru_maxrss in kibibytes on Linux."""
    child = os.posix_spawnp(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(child, 0)
    if status:
        raise OSError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return usage


def measure() -> dict[str, object]:
    if available_bytes() < 10 * GIB:
        return {"not_measured": "needs 10 GiB of available memory for a target of 8 GiB"}
    with fixture.run("dense", scale=SCALE) as process:
        usage = usage_of(*ALLOCSCOPE, "arenas", str(process.pid), "--json")
        return {
            "peak_bytes": at_most(
                usage.ru_maxrss * 1024, LIMIT_BYTES, heap_bytes=process.truth["system_bytes"]
            )
        }
