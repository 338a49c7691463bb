"""What looking at a process of 4 GiB costs that process: its longest mmap and munmap meanwhile.

Whoever reads smaps holds the target's memory map for as long as its page tables are walked, and the
target waits. One plain reading of smaps, by a process of its own as allocscope is one, is what
`arenas` is held against. The clock is the target's own.
"""

from __future__ import annotations

import sys
from statistics import median

from common import ALLOCSCOPE, ROUNDS, at_most, run, target

MIB = 4096
READ_SMAPS = "import sys; open(f'/proc/{sys.argv[1]}/smaps', 'rb').read()"


def measure() -> dict[str, object]:
    with target(threads=8, mib=MIB) as process:
        pid = str(process.pid)
        process.ask("map", "map")
        rows = [
            (
                process.longest_stop_ns(lambda: run(*ALLOCSCOPE, "arenas", pid, "--json")),
                process.longest_stop_ns(lambda: run(sys.executable, "-c", READ_SMAPS, pid)),
            )
            for _ in range(ROUNDS)
        ]
    ours, smaps = (median(column) for column in zip(*rows, strict=True))
    return {
        "longest_map_ratio": at_most(
            ours / smaps,
            0.34,
            arenas_us=round(ours / 1000, 1),
            smaps_us=round(smaps / 1000, 1),
            heap_mib=MIB,
        )
    }
