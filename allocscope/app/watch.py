"""``watch``: a process over time. It only reads.

Strategy: every sample is a glance (app.glance), and a walk where account.watch says that one is
due. Rules: samples are due at multiples of the interval; a walk that takes longer skips some, and
they are not made up for. The watching ends in one of the ways of model.watch.EndKey; only a first
sample that fails is an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from allocscope.account import watch as account
from allocscope.app.explain import ExplainOptions, survey
from allocscope.app.glance import Glances
from allocscope.causes import explanation
from allocscope.errors import NoGlibcHeap, NoSuchProcess
from allocscope.immutable import immutable
from allocscope.model.report import Caveat, Method, Report
from allocscope.model.situation import Situation
from allocscope.model.watch import End, EndKey, Glance, Sample
from allocscope.proc import life

Pause = Callable[[int | None, float], bool]
"""Waits: so many seconds, or until the descriptor (if there is one) becomes readable. False: nobody
wants to see more."""


@immutable
class WatchOptions:
    """``every_s``: from sample to sample; ``for_s``: for how long, None for ever; ``deadline_s``:
    seconds after which a walk starts nothing more."""

    every_s: float = 5.0
    for_s: float | None = None
    deadline_s: float = 30.0


def watch(
    pid: int, options: WatchOptions, show: Callable[[Report[Sample]], None], pause: Pause
) -> Report[End]:
    """Gives ``show`` one sample after another, and returns how it ended. KeyboardInterrupt, once
    there is a sample, is one way to end.

    Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5), each for the first sample; a
    permission that is lost later is raised, too."""
    watching = _Watching(pid, options)
    with life.end_of(pid) as ended:
        reason: EndKey = "time"
        last = watching.sample()
        try:
            show(last)
            for moment_ns in _moments(watching.started_ns, options):
                left_s = max(0.0, (moment_ns - time.monotonic_ns()) / 1e9)
                if not pause(ended, left_s):
                    reason = "quit"
                    break
                last = watching.sample()
                show(last)
        except KeyboardInterrupt:
            reason = "quit"
        except NoSuchProcess:
            reason = "exec" if life.fate(watching.program) == "exec" else "ended"
    return Report(last.process, last.libc, last.allocator, last.method, watching.end(reason), ())


def _moments(started_ns: int, options: WatchOptions) -> Iterator[int]:
    """When the samples after the first are due (CLOCK_MONOTONIC): those that are not past yet."""
    every_ns = int(options.every_s * 1e9)
    number = 0
    while True:
        number = max(number + 1, (time.monotonic_ns() - started_ns) // every_ns)
        if options.for_s is not None and number * options.every_s > options.for_s:
            return
        yield started_ns + number * every_ns


class _Watching:
    """One process, and what its last walk found."""

    def __init__(self, pid: int, options: WatchOptions) -> None:
        self.started_ns = time.monotonic_ns()
        self.program = life.program(pid)
        self._pid = pid
        self._options = options
        self._glances = Glances(pid)
        self._last: account.Walked | None = None
        self._found: Report[Situation] | None = None
        self._number = 0
        self._glanced: tuple[int, Glance] | None = None

    def sample(self) -> Report[Sample]:
        """The next sample. NoSuchProcess where the process ended or runs another program."""
        begun_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
        number = self._number + 1
        glance, notes = self._glances.take()
        walked = account.walk_is_due(self._last, glance, number, begun_ns)
        if walked:
            notes += self._walk(number, glance)
        now = life.program(self._pid)
        if not life.same(self.program, now):
            raise NoSuchProcess(f"process {self._pid} went away meanwhile")
        last, found = self._last, self._found
        assert last is not None and found is not None
        before, self._glanced = self._glanced, (begun_ns, glance)
        self._number = number
        now_ns = time.monotonic_ns()
        fresh = last.walk.sample == number
        data = Sample(
            number=number,
            elapsed_s=(begun_ns - self.started_ns) / 1e9,
            glance=glance,
            walked=fresh,
            walk=last.walk,
            age_s=0.0 if fresh else (now_ns - last.ended_ns) / 1e9,
            moved_bytes=account.moved_bytes(last.glance, glance),
            cpu_ns=time.process_time_ns() - cpu_ns,
            refaults_per_s=None
            if before is None
            else account.refaults_per_s(before[1], glance, (begun_ns - before[0]) / 1e9),
        )
        method = Method("passive", 0, now_ns - begun_ns, found.method.consistency)
        caveats = found.caveats + notes
        return Report(now.process, found.libc, found.allocator, method, data, caveats)

    def _walk(self, number: int, glance: Glance) -> tuple[Caveat, ...]:
        """Walks; what stands in the way of any walk but the first is a caveat."""
        cpu_ns = time.process_time_ns()
        try:
            if self._last is not None:
                self._glances.find()
            found = survey(self._pid, ExplainOptions(deadline_s=self._options.deadline_s))
        except NoGlibcHeap as error:
            if self._last is None or life.fate(self.program) != "lives":
                raise
            return (Caveat("walk-failed", f"No walk was possible: {error.message}."),)
        self._found = found
        self._last = account.Walked(
            walk=account.walk(number, found.data, explanation.explain(found.data)),
            glance=glance,
            ended_ns=time.monotonic_ns(),
            cpu_ns=time.process_time_ns() - cpu_ns,
        )
        return ()

    def end(self, reason: EndKey) -> End:
        """The last word."""
        process = self.program.process
        how = {
            "time": "was watched for as long as was asked for",
            "quit": "is no longer watched",
            "ended": "has ended",
            "exec": "has started another program",
        }
        return End(
            reason=reason,
            message=f"process {self._pid} ({process.comm}) {how[reason]}",
            sample_count=self._number,
            elapsed_s=(time.monotonic_ns() - self.started_ns) / 1e9,
        )
