"""The frozen copy of a running process: made in one short stop, read at leisure, gone without
trace.

Strategy: vet, forecast, choose a thread, let it clone (probes/include/act.h). The copy A is traced
by us, never runs and dies with us; it is read like any process, through /proc/A. ``disposable``
gives B, a copy of A, for a debugger; ``stage`` gives one for a call of ours. At the end both are
killed, and the target collects A by one more borrowed call, so that no zombie stays.

Rules: nothing is kept on any way out, errors and Ctrl-C included; where our own death intervenes,
a zombie may be left, which the next run finds (leftovers.py). The target never gets a SIGCHLD of
ours. Known limits: what the target has marked MADV_DONTFORK is missing in the copy; the copy's few
microseconds of CPU time count as the target's children's; a target that calls execve while its copy
lives does get a SIGCHLD (the kernel's do_notify_parent insists); the copy's death is announced as
any other's to whoever collects orphans if the target ends first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from allocscope.act import code, vet
from allocscope.act import forecast as forecasts
from allocscope.act.session import Called, Session, Twin
from allocscope.immutable import immutable
from allocscope.proc import procfs

MAX_PAUSE_NS = 100_000_000
LIFETIME_S = 60


@immutable
class CopyPlan:
    """What has to be put right in a copy before anything is called in it; addresses in the target.

    ``lock_words``: 4-byte arena mutexes, zeroed. ``stderr_variable``: libc's variable ``stderr``;
    ``stderr_file``: _IO_2_1_stderr_; with None the stream is left alone.
    """

    lock_words: tuple[int, ...]
    stderr_variable: int | None
    stderr_file: int | None


@immutable
class Copy:
    """B: a stopped process (SIGSTOP) that nobody traces.

    It exits if anything lets it run, and dies with A. ``output_path`` is the file behind its
    descriptor 2, its only one. ``locks_held``: the lock words that were not 0.
    """

    pid: int
    output_path: str
    locks_held: tuple[int, ...]
    stderr_locked: bool


@immutable
class Stage:
    """A copy of the copy in which ``call(function, argument)`` runs one function of the target's;
    stopped before and after that, so that it can be read. ``locks_held``: the arenas' lock words
    that were not 0."""

    pid: int
    locks_held: tuple[int, ...]
    call: Callable[[int, int], Called]


class Snapshot:
    """The frozen copy ``pid`` of ``target_pid``, made by ``frozen``, valid inside its block.

    ``tid``: the thread that was stopped for it. ``pause_ns``: for how long, measured from the
    request to stop until it was let go. ``forecast``: what had been expected.
    """

    def __init__(self, session: Session, forecast: forecasts.Forecast) -> None:
        self._session = session
        self.forecast = forecast
        self.pid: int = session.held.pid
        self.target_pid = session.target
        self.tid = session.tid
        self.pause_ns = session.pause_ns

    @property
    def reap_pause_ns(self) -> int:
        """The second stop, in which the target collects the copy; 0 before the block has ended."""
        return self._session.reap_pause_ns

    @property
    def zombie(self) -> int | None:
        """After the block: the copy's pid if the target could not be made to collect it."""
        return self._session.zombie

    @contextlib.contextmanager
    def disposable(self, plan: CopyPlan) -> Iterator[Copy]:
        """A copy of the copy, for a debugger, which has to let it go before the block ends.

        Raises Unsafe when the kernel refuses it or the deadline passes.
        """
        twin = Twin(self._session, plan.lock_words, plan.stderr_variable, plan.stderr_file)
        try:
            made = self._session.tracer.run(twin.make)
            yield Copy(made.pid, f"/proc/{made.pid}/fd/2", made.locks_held, made.stderr_locked)
        finally:
            self._session.tracer.run(twin.end)

    @contextlib.contextmanager
    def stage(self, lock_words: tuple[int, ...], mlocked: Sequence[int]) -> Iterator[Stage]:
        """A copy of the copy that stays ours, to run a function in. ``mlocked``: start, end, start,
        end, … of what is mlocked in the target.

        Raises Unsafe when the kernel refuses it or the deadline passes.
        """
        twin = Twin(self._session, lock_words, None, None, mlocked=mlocked, kept=True)
        run = self._session.tracer.run
        try:
            made = run(twin.make)
            yield Stage(made.pid, made.locks_held, lambda *call: run(lambda: twin.call(*call)))
        finally:
            run(twin.end)


@contextlib.contextmanager
def frozen(
    pid: int,
    *,
    max_pause_ns: int = MAX_PAUSE_NS,
    deadline_ns: int,
    forecast: forecasts.Forecast | None = None,
    lifetime_s: int = LIFETIME_S,
) -> Iterator[Snapshot]:
    """A frozen copy of ``pid``, which goes on meanwhile.

    ``deadline_ns``: CLOCK_MONOTONIC, absolute; the way out has some seconds of its own. The copies
    die ``lifetime_s`` after they were made, whatever happens. One snapshot of a target at a time.

    Raises NoSuchProcess, NoGlibcHeap (a kernel thread), PermissionRefused, MissingPart, and Unsafe
    when it was refused or did not succeed in time: the target is then as it was.
    """
    process = vet.vet(pid)
    expected = forecast or forecasts.forecast_of(pid)
    forecasts.refuse(pid, expected, max_pause_ns)
    mappings = procfs.mappings(pid)
    session = Session(pid, code.find(pid, mappings), mappings, deadline_ns)
    try:
        session.collect_leftovers()
        session.freeze(lifetime_s * 1_000_000_000)
        vet.same(process)
        yield Snapshot(session, expected)
    finally:
        session.finish()
