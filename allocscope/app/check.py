"""``check``: limits held against a process, a recording or a core, for CI. It only reads.

Each is surveyed as for ``explain``. A limit that a file cannot judge is refused before anything is
said: a check that passes because it saw nothing is worse than none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from allocscope.app.explain import ExplainOptions, survey
from allocscope.app.explain_core import portrait_of_core
from allocscope.app.explain_file import survey_file
from allocscope.app.file_kind import is_core
from allocscope.causes import explanation, gate
from allocscope.causes.elsewhere import GLIBC
from allocscope.causes.gate import Found
from allocscope.errors import MissingPart, WrongUsage
from allocscope.immutable import immutable
from allocscope.model.gate import FIGURES, GateData, Limit
from allocscope.model.report import Caveat, Report
from allocscope.units import size


@immutable
class CheckOptions:
    """``limits``: at least one. ``sample``: which one of a recording, counted from 1; ``exe``: the
    program of a core. ``deadline_s``: seconds after which nothing more is started."""

    limits: tuple[Limit, ...]
    sample: int | None = None
    exe: Path | None = None
    deadline_s: float = 30.0


def check(target: int | Path, options: CheckOptions) -> Report[GateData]:
    """Holds the limits against ``target``, a pid or a file.

    Raises WrongUsage (2) for a limit that a file cannot judge, MissingPart (8) for one that this
    kernel cannot; NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5), BadInput (9)."""
    if isinstance(target, int):
        return _check_process(target, options)
    return _check_file(target, options)


def _check_process(pid: int, options: CheckOptions) -> Report[GateData]:
    report = survey(pid, ExplainOptions(deadline_s=options.deadline_s))
    found = Found(report.data.heap, report.data, explanation.explain(report.data))
    for limit in options.limits:
        if gate.figure(limit.key, found) is None:
            raise MissingPart(
                f"--{limit.key} cannot be judged: this kernel does not tell {FIGURES[limit.key]}",
                "It needs Pss_Anon in /proc/PID/smaps_rollup. Leave this limit out.",
            )
    return _judged(report, found, options.limits, _allocator_caveats(report, options.limits))


def _check_file(path: Path, options: CheckOptions) -> Report[GateData]:
    if not is_core(path, sample=options.sample, exe=options.exe):
        return _check_recording(path, options)
    for key, why in gate.untold(options.limits):
        raise WrongUsage(
            f"--{key} cannot be judged from a core: {why}",
            "Check the running process, or leave this limit out.",
        )
    asked = ExplainOptions(deadline_s=options.deadline_s)
    portrait = portrait_of_core(path, asked, exe=options.exe)
    found = Found(portrait.heap, explanation=portrait.report.data, at_most=portrait.at_most)
    for limit in options.limits:
        between = gate.bounds(limit, found)
        if between is not None:
            least, most = (size(int(bound)) for bound in between)
            raise WrongUsage(
                f"--{limit.key} cannot be judged from this core: {FIGURES[limit.key]} was at least "
                f"{least} and at most {most}, for a core does not tell what was resident",
                "Check the running process or a recording of it, or leave this limit out.",
            )
    return _judged(portrait.report, found, options.limits, ())


def _check_recording(path: Path, options: CheckOptions) -> Report[GateData]:
    asked = ExplainOptions(deadline_s=options.deadline_s)
    report = survey_file(path, asked, sample=options.sample).report
    found = Found(report.data.heap, report.data, explanation.explain(report.data))
    for limit in options.limits:
        if gate.figure(limit.key, found) is None:
            raise WrongUsage(
                f"--{limit.key} cannot be judged from this recording: it does not tell "
                f"{FIGURES[limit.key]}",
                "Record the process anew (above 1 GiB of RSS with `record --exact`), check the "
                "running process, or leave this limit out.",
            )
    return _judged(report, found, options.limits, _allocator_caveats(report, options.limits))


def _judged(
    report: Report[Any], found: Found, limits: tuple[Limit, ...], more: tuple[Caveat, ...]
) -> Report[GateData]:
    verdicts = gate.judge(limits, found)
    return Report(
        process=report.process,
        libc=report.libc,
        allocator=report.allocator,
        method=report.method,
        data=GateData(found.rss_bytes, sum(verdict.exceeded for verdict in verdicts), verdicts),
        caveats=report.caveats + more,
        captured_at=report.captured_at,
    )


def _allocator_caveats(report: Report[Any], limits: tuple[Limit, ...]) -> tuple[Caveat, ...]:
    """Limits on glibc's heap that are kept because it is not in use are not kept at all."""
    vain = [f"--{limit.key}" for limit in limits if limit.key in gate.OF_MALLOC]
    if not vain or report.allocator is None or report.allocator.name in GLIBC:
        return ()
    text = (
        f"{', '.join(vain)} judged glibc's arenas only, and {report.allocator.name} serves malloc "
        "here: what that one holds free is not known."
    )
    return (Caveat("not-judged", text, partial=True),)
