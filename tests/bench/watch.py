"""``watch`` on 1 GiB of small chunks that keep moving, at one sample every 5 s: CPU time of
allocscope over wall time, from just before its second walk to just before its third.

A walk may be repeated only so seldom that walks stay below their share (account.watch), so this
stretch has the worst case whole: one walk, and all cheap samples that it costs until the next.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from common import ALLOCSCOPE, HERE, at_most

from allocscope.lab.child import child

EVERY_S = 5
MIB = 1040
SECONDS = 60


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process, in clock ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _seen(line: dict[str, Any], pid: int) -> tuple[dict[str, Any], float, float]:
    """A sample, when it came, and the CPU time used until then."""
    return line["data"], time.monotonic(), cpu_seconds(pid)


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
                seen = [_seen(first, watcher.pid)]
                while sum(one["walked"] for one, _, _ in seen) < 3:
                    target.send(b"a 4\n")
                    target.line(SECONDS)
                    seen.append(_seen(json.loads(watcher.line(SECONDS)), watcher.pid))
    _, second, third = (at for at, (one, _, _) in enumerate(seen) if one["walked"])
    (_, begun, used_before), (_, over, used) = seen[second - 1], seen[third - 1]
    wall_s, cpu_s = over - begun, used - used_before
    cheap = [one["cpu_ns"] for one, _, _ in seen[second + 1 : third]]
    return {
        "watch_cpu_share_ratio": at_most(
            cpu_s / wall_s,
            0.02,
            rss_bytes=first["data"]["walk"]["rss_bytes"],
            cpu_s=round(cpu_s, 3),
            wall_s=round(wall_s, 1),
            cpu_per_sample_s=round(cpu_s / (third - second), 4),
            walk_cpu_s=round(seen[second][0]["cpu_ns"] / 1e9, 3),
            cheap_sample_cpu_s=round(sum(cheap) / len(cheap) / 1e9, 5) if cheap else None,
            sample_count=third - second,
        )
    }
