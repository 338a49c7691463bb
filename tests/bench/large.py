"""The walk over 8 GiB against plain reading of the same bytes, both with two threads: one single
heap, which is walked in parts, and many heaps of threads.

Plain reading is as in walk.py. The walk's time is that of all chunks of all arenas within one
complete reading, by the wall clock; on a busy machine the ratio of processor times beside it tells
more. BENCH_GIB=2 in the environment makes the targets smaller.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

from common import ALLOCSCOPE, at_most, medians, seconds, target
from memory import GIB, available_bytes, usage_of
from walk import read_plainly

from allocscope import observe
from allocscope.glibc.reading import _Reader
from allocscope.lab import fixture

SIZE_GIB = int(os.environ.get("BENCH_GIB", "8"))
PIECE = 64 << 20
ROUNDS = 3
LIMIT, LIMIT_BYTES = 1.6, 100_000_000


@contextmanager
def one_heap() -> Iterator[int]:
    with fixture.run("dense", scale=SIZE_GIB * 16) as process:
        yield process.pid


@contextmanager
def many_heaps() -> Iterator[int]:
    with target(threads=8, mib=SIZE_GIB * 1024) as process:
        yield process.pid


def read_by_two(pid: int, pieces: list[tuple[int, int]]) -> None:
    """Reads all of ``pieces``, two threads side by side."""
    small = [(at, min(at + PIECE, end)) for start, end in pieces for at in range(start, end, PIECE)]
    threads = [
        threading.Thread(target=read_plainly, args=(pid, small[number::2])) for number in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def processor_seconds(action: Callable[[], object]) -> float:
    """The processor time that all our threads take for something."""
    begun = time.process_time()
    action()
    return time.process_time() - begun


def walk_seconds(pid: int, clock: Callable[[], float]) -> float:
    """The time that one reading of ``pid`` takes for all chunks of all arenas."""
    spent = 0.0
    read_each = _Reader.read_each

    def timed(self, now, arenas):  # type: ignore[no-untyped-def]
        nonlocal spent
        begun = clock()
        readings = read_each(self, now, arenas)
        spent += clock() - begun
        return readings

    with mock.patch.object(_Reader, "read_each", timed):
        observe(pid)
    return spent


def measure_one(pid: int) -> dict[str, object]:
    report = observe(pid)
    pieces = [(heap.start, heap.end) for a in report.data.arenas for heap in a.heaps]
    walked, plain = medians(
        lambda: walk_seconds(pid, time.perf_counter),
        lambda: seconds(lambda: read_by_two(pid, pieces)),
        rounds=ROUNDS,
    )
    walked_cpu, plain_cpu = medians(
        lambda: walk_seconds(pid, time.process_time),
        lambda: processor_seconds(lambda: read_by_two(pid, pieces)),
        rounds=ROUNDS,
    )
    usage = usage_of(*ALLOCSCOPE, "arenas", str(pid), "--json")
    return {
        "time_ratio": at_most(
            walked / plain,
            LIMIT,
            walk_s=round(walked, 3),
            plain_s=round(plain, 3),
            processor_time_ratio=round(walked_cpu / plain_cpu, 4),
            heap_bytes=sum(end - start for start, end in pieces),
            heap_count=len(pieces),
        ),
        "peak_bytes": at_most(usage.ru_maxrss * 1024, LIMIT_BYTES),
    }


def measure() -> dict[str, object]:
    if available_bytes() < (SIZE_GIB + 2) * GIB:
        return {"not_measured": f"needs {SIZE_GIB + 2} GiB of available memory"}
    results = {}
    for name, running in (("one_heap", one_heap), ("many_heaps", many_heaps)):
        with running() as pid:
            results[name] = measure_one(pid)
    return results
