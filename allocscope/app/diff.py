"""``diff``: two readings, of recordings, cores or a running process, compared."""

from __future__ import annotations

import time
from pathlib import Path

from allocscope.account import diff as account
from allocscope.app.arenas import ArenasOptions, arenas, read_smaps
from allocscope.app.arenas_core import arenas_of_core
from allocscope.app.arenas_file import arenas_of_file
from allocscope.errors import WrongUsage
from allocscope.files import CORE, kind_of
from allocscope.immutable import immutable, replace
from allocscope.model.diff import DiffData, Side
from allocscope.model.heap import ArenasData
from allocscope.model.process import SmapsEntry
from allocscope.model.report import Caveat, Method, Report

Target = int | Path


@immutable
class DiffOptions:
    """Samples are counted from 1, the last by default; the rest as in ArenasOptions."""

    sample_before: int | None = None
    sample_after: int | None = None
    exact: bool = False
    deadline_s: float = 30.0


@immutable
class _Read:
    report: Report[ArenasData]
    reading: account.Reading


def diff(before: Target, after: Target, options: DiffOptions) -> Report[DiffData]:
    """What changed from ``before`` to ``after``; the report is about the process of ``after``.

    Raises BadInput (9), MissingPart (8), NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5),
    WrongUsage (2: a core has no samples)."""
    started = time.monotonic_ns()
    old = _read(before, options.sample_before, options)
    new = _read(after, options.sample_after, options)
    data = account.diff(old.reading, new.reading)
    return Report(
        process=new.report.process,
        libc=new.report.libc,
        allocator=new.report.allocator,
        method=Method(
            new.report.method.source,
            0,
            time.monotonic_ns() - started,
            _weaker(old.report.method.consistency, new.report.method.consistency),
        ),
        data=data,
        caveats=(
            *_caveats(data),
            *_of(old.report, "before"),
            *_of(new.report, "after"),
        ),
        captured_at=data.after.captured_at_s,
    )


def _read(target: Target, sample: int | None, options: DiffOptions) -> _Read:
    smaps: tuple[SmapsEntry, ...] | None = None
    captured_at: float | None = None
    if isinstance(target, Path) and kind_of(target) == CORE:
        if sample is not None:
            raise WrongUsage(f"{target} is a core: it has no samples", "Leave --samples out.")
        report = arenas_of_core(target, exe=None, deadline_s=options.deadline_s)
    elif isinstance(target, Path):
        found = arenas_of_file(target, sample=sample, deadline_s=options.deadline_s)
        report, smaps, captured_at = found.report, found.facts.smaps, found.facts.captured_at
        sample = found.sample
    else:
        captured_at = time.time()
        wanted = ArenasOptions(exact=options.exact, deadline_s=options.deadline_s)
        report = arenas(target, wanted)
        smaps, _ = read_smaps(target, report.data.rss_bytes or 0, options.exact)
    process, method = report.process, report.method
    side = Side(
        file=str(target) if isinstance(target, Path) else None,
        sample=sample,
        source=method.source,
        consistency=method.consistency,
        captured_at_s=captured_at,
        pid=process.pid,
        start_ticks=process.start_ticks,
        comm=process.comm,
    )
    return _Read(report, account.Reading(side, report.data, smaps))


_STRONGEST_FIRST = ("frozen", "quiescent", "validated", "partial")


def _weaker(one: str, other: str) -> str:
    return max(one, other, key=_STRONGEST_FIRST.index)


def _of(report: Report[ArenasData], side: str) -> tuple[Caveat, ...]:
    return tuple(replace(caveat, message=f"{side}: {caveat.message}") for caveat in report.caveats)


def _caveats(data: DiffData) -> tuple[Caveat, ...]:
    found = []
    if not data.same_process:
        text = (
            f"two processes are compared, {data.before.pid} ({data.before.comm}) and "
            f"{data.after.pid} ({data.after.comm}): arenas are matched by their index."
        )
        found.append(Caveat("different-processes", text))
    if data.interval_s is not None and data.interval_s < 0:
        found.append(Caveat("reversed", "the second one is older than the first."))
    return tuple(found)
