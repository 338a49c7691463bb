"""``trim PID --apply``: the process itself calls malloc_trim, and then it is proved what that did.

The forecast is made first, by reading only. Then a thread of the process makes the call
(act.live_trim); each arena's resident pages are counted just before and just after, again by
reading only, and held against the forecast. A process that goes on allocating meanwhile moves both
figures, and a caveat says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from allocscope.account import trim as account
from allocscope.act import live_trim
from allocscope.app import heap
from allocscope.app.target import Target, find_malloc
from allocscope.app.trim import Foretold, TrimOptions, find, foretell, require_glibc, served_by
from allocscope.errors import NoSuchProcess, Unsafe
from allocscope.glibc.reading import HeapReading
from allocscope.immutable import replace
from allocscope.model.report import Caveat, Method, Report
from allocscope.model.trim import Applied, Refaults, TrimData
from allocscope.proc import life, procfs
from allocscope.proc.memory import ProcessMemory

RAN_MEANWHILE = Caveat(
    "ran-meanwhile",
    "threads of the process ran while it was trimmed: the error includes what they touched and "
    "gave back themselves.",
)
ENDED_MEANWHILE = Caveat(
    "target-ended", "the process ended before the faults that came back could be counted."
)


def always(_data: TrimData) -> bool:
    """No condition."""
    return True


def apply(
    pid: int,
    options: TrimOptions,
    *,
    watch_s: float | None = None,
    only_if: Callable[[TrimData], bool] = always,
    start_ticks: int | None = None,
) -> Report[TrimData]:
    """Trims process ``pid`` and audits that. ``watch_s``: count for so many seconds what comes
    back. ``only_if``: judges the forecast; where it says no, nothing is done and ``applied`` is
    None. ``start_ticks``: of the process that is meant, where it was looked at before.

    Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5), Unsafe (7: no thread could
    safely make the call; the process is as it was), MissingPart (8)."""
    started = time.monotonic_ns()
    deadline_ns = started + int(options.deadline_s * 1e9)
    target = find(pid)
    if start_ticks not in (None, target.process.start_ticks):
        raise NoSuchProcess(f"process {pid} has ended, and another one has its number")
    with ProcessMemory(pid) as memory:
        trimming = _Trimming(memory, target, options, deadline_ns)
        allocator, caveats = served_by(target, trimming.foretold.answer.image)
        require_glibc(pid, allocator)
        data = trimming.foretold.data()
        answer = trimming.foretold.answer
        caveats += heap.caveats(answer, trimming.foretold.arenas)
        consistency = answer.consistency
        if consistency == heap.VALIDATED and trimming.at_rest():
            consistency = "quiescent"
        source, pause_ns = "passive", 0
        if only_if(data):
            applied, more = trimming.run(watch_s)
            source, pause_ns = "live", applied.pause_ns
            error = applied.released_bytes - data.forecast.bytes
            data = replace(data, applied=applied, error_bytes=error)
            caveats += more
    return Report(
        process=target.process,
        libc=answer.libc,
        allocator=allocator,
        method=Method(source, pause_ns, time.monotonic_ns() - started, consistency),
        data=data,
        caveats=caveats,
    )


class _Trimming:
    """One forecast, and the one call that may follow it."""

    def __init__(
        self, memory: ProcessMemory, target: Target, options: TrimOptions, deadline_ns: int
    ) -> None:
        self._memory = memory
        self._target = target
        self._pad_bytes = options.pad_bytes
        self._deadline_ns = deadline_ns
        now = time.monotonic_ns()
        self._still = procfs.stillness(target.process.pid)
        self._found = find_malloc(memory, target)
        # A process that never rests can be read again and again; leave time for the call.
        reading_deadline_ns = now + (deadline_ns - now) // 2
        self.foretold: Foretold = foretell(
            memory, target, options.pad_bytes, reading_deadline_ns, self._found
        )

    def run(self, watch_s: float | None) -> tuple[Applied, tuple[Caveat, ...]]:
        """Makes the process trim itself, and looks at what that did."""
        pid, reading = self._target.process.pid, self.foretold.answer.reading
        located, image = self._found
        before = self._resident(reading)
        if time.monotonic_ns() > self._deadline_ns:
            raise Unsafe(
                f"reading process {pid} took all the time that was allowed; it was left as it was",
                "Give a longer --deadline.",
            )
        caveats: tuple[Caveat, ...] = () if self.at_rest() else (RAN_MEANWHILE,)
        called = live_trim.trim(
            pid,
            image,
            located,
            pad_bytes=self._pad_bytes,
            deadline_ns=self._deadline_ns,
        )
        faults = procfs.stat(pid).minor_fault_count
        after = self._resident(reading)
        rss_after = procfs.rss_bytes(pid)
        refaults = None
        if watch_s is not None:
            refaults = self._watch(watch_s, faults, sum(after))
            caveats += () if refaults else (ENDED_MEANWHILE,)
        rows = account.released(self.foretold.forecast.per_arena, before, after)
        applied = Applied(
            released_bytes=sum(row.released_bytes for row in rows),
            per_arena=rows,
            tid=called.tid,
            duration_ns=called.duration_ns,
            pause_ns=called.pause_ns,
            returned=called.returned,
            rss_after_bytes=rss_after,
            refaults=refaults,
        )
        return applied, caveats

    def _resident(self, reading: HeapReading) -> list[int]:
        memory = self._memory
        return account.resident(reading, lambda *span: memory.residency(*span).resident_bytes)

    def at_rest(self) -> bool:
        """No thread ran since before the forecast."""
        now = procfs.stillness(self._target.process.pid)
        return now == self._still and now.all_sleeping

    def _watch(self, watch_s: float, faults: int, resident_bytes: int) -> Refaults | None:
        """What came back in ``watch_s`` seconds; None where the process ended before."""
        pid = self._target.process.pid
        began_ns = time.monotonic_ns()
        try:
            with life.end_of(pid) as end:
                procfs.same(self._target.process)
                life.ended_within(end, watch_s)
            procfs.same(self._target.process)
            more = procfs.stat(pid).minor_fault_count - faults
            grown = sum(self._resident(self.foretold.answer.reading)) - resident_bytes
        except NoSuchProcess:
            return None
        return Refaults(time.monotonic_ns() - began_ns, more, grown)
