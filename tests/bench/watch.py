"""``watch`` on 1 GiB of small chunks that keep moving, at one sample every 5 s: CPU time of
allocscope over wall time, from the end of its first walk to the end of its second.

A walk may be repeated only so seldom that walks stay below their share (account.watch), so this
stretch has the worst case whole: all cheap samples between two walks, and one walk.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from common import ALLOCSCOPE, HERE, at_most

from allocscope.lab.child import child

EVERY_S = 5
MIB = 1040
SECONDS = 60


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process, in clock ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "breathes"
        source = HERE.parent / "live" / "targets" / "breathes.c"
        subprocess.run(["gcc", "-O2", "-pthread", str(source), "-o", str(program)], check=True)
        with child([str(program)]) as target:
            target.line(SECONDS)
            target.send(f"a {MIB}\n".encode())
            target.line(SECONDS)
            words = ["watch", str(target.pid), "--every", str(EVERY_S), "--json"]
            with child([*ALLOCSCOPE, *words], ends_at_eof=False) as watcher:
                first = json.loads(watcher.line(SECONDS))
                begun, used = time.monotonic(), cpu_seconds(watcher.pid)
                samples = []
                while not samples or not samples[-1]["data"]["walked"]:
                    target.send(b"a 20\n")
                    target.line(SECONDS)
                    samples.append(json.loads(watcher.line(SECONDS)))
                wall_s = time.monotonic() - begun
                cpu_s = cpu_seconds(watcher.pid) - used
    cheap = [one["data"]["cpu_ns"] for one in samples[:-1]]
    return {
        "watch_cpu_share_ratio": at_most(
            cpu_s / wall_s,
            0.02,
            rss_bytes=first["data"]["walk"]["rss_bytes"],
            cpu_s=round(cpu_s, 3),
            wall_s=round(wall_s, 1),
            cpu_per_sample_s=round(cpu_s / len(samples), 4),
            walk_cpu_s=round(samples[-1]["data"]["cpu_ns"] / 1e9, 3),
            cheap_sample_cpu_s=round(sum(cheap) / len(cheap) / 1e9, 5) if cheap else None,
            sample_count=len(samples),
        )
    }
