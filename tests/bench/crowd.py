"""A process with 1,024 arenas and 30,000 mappings, and 10,000 chunks with a mapping of their own:
`arenas --json` by the wall clock, the processor time that it took, and its peak memory.

The program is that of the tests (tests/live/targets/crowd.c). On a busy machine the processor time
tells more than the wall clock.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from common import ALLOCSCOPE, HERE, ROUNDS, answer_of, at_most, seconds
from memory import usage_of

ARENAS, MAPPINGS, CHUNKS, ALIGNED = 1024, 26_000, 10_000, 1000
SOURCE = HERE.parent / "live" / "targets" / "crowd.c"
LIMIT_S, LIMIT_BYTES = 1.5, 150_000_000


@contextmanager
def crowd() -> Iterator[int]:
    """The pid of the program, when all is built."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "crowd"
        flags = ["-std=gnu11", "-O2", "-pthread"]
        subprocess.run(["gcc", *flags, str(SOURCE), "-o", str(program)], check=True)
        numbers = map(str, (ARENAS - 1, MAPPINGS, CHUNKS, ALIGNED))
        with subprocess.Popen(
            [program, *numbers],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "MALLOC_ARENA_MAX": str(ARENAS)},
        ) as process:
            assert process.stdout is not None
            yield int(json.loads(process.stdout.readline())["pid"])


def measure() -> dict[str, object]:
    with crowd() as pid:
        command = [*ALLOCSCOPE, "arenas", str(pid), "--json"]
        usage = [usage_of(*command) for _ in range(ROUNDS)]
        wall = median(seconds(lambda: usage_of(*command)) for _ in range(ROUNDS))
        data = answer_of("arenas", str(pid))["data"]
        mapping_count = len(Path(f"/proc/{pid}/maps").read_text().splitlines())
    return {
        "wall_s": at_most(
            wall,
            LIMIT_S,
            processor_s=round(median(one.ru_utime + one.ru_stime for one in usage), 3),
            arena_count=len(data["arenas"]),
            mapping_count=mapping_count,
            mmapped_count=data["mmapped"]["found_count"],
        ),
        "peak_bytes": at_most(max(one.ru_maxrss for one in usage) * 1024, LIMIT_BYTES),
    }
