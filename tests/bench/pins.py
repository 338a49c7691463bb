"""The search for pointers of ``pins``: bytes searched per second on 1 GiB of small chunks."""

from __future__ import annotations

from common import at_least, medians, seconds

from allocscope.lab import fixture
from allocscope.proc import procfs
from allocscope.proc.memory import ProcessMemory

TARGETS = 10
MOST = 6


def measure() -> dict[str, object]:
    with fixture.run("dense", scale=16) as process, ProcessMemory(process.pid) as memory:
        spans = [
            (m.start, m.end)
            for m in procfs.mappings(process.pid)
            if m.writable and m.readable and m.private
        ]
        low, high = max(spans, key=lambda span: span[1] - span[0])
        step = (high - low) // (TARGETS + 1) // 16 * 16
        targets = [(low + step * n, low + step * n + 64) for n in range(1, TARGETS + 1)]

        def search() -> int:
            return sum(memory.references(span, targets, MOST)[2] for span in spans)

        scanned = search()
        (taken,) = medians(lambda: seconds(search))
    return {
        "pointer_search_bytes_per_s": at_least(
            scanned / taken, 1e9, scanned_bytes=scanned, seconds=round(taken, 4)
        )
    }
