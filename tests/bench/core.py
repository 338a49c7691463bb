"""`arenas` on a core of 1 GiB, by the wall clock."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from common import ALLOCSCOPE, SECONDS, at_most, medians, run, seconds
from memory import usage_of

from allocscope.lab import fixture

SCALE = 16  # of the fixture's 64 MiB
LIMIT_S = 3.0


def measure() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        core = Path(directory) / "core"
        with fixture.run("dense", scale=SCALE) as process:
            words = ["gdb", "--nx", "--batch", "-p", str(process.pid)]
            words += ["-ex", f"generate-core-file {core}"]
            subprocess.run(words, capture_output=True, timeout=SECONDS, check=True)
        command = [*ALLOCSCOPE, "arenas", str(core), "--json"]
        [wall] = medians(lambda: seconds(lambda: run(*command)))
        usage = usage_of(*command)
        return {
            "wall_s": at_most(
                wall,
                LIMIT_S,
                processor_s=round(usage.ru_utime + usage.ru_stime, 3),
                peak_bytes=usage.ru_maxrss * 1024,
                core_bytes=core.stat().st_size,
            )
        }
