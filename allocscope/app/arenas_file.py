"""``arenas`` of a file: the same reading as of a process, from what was recorded of one.

The layout is chosen anew, by the recorded memory, so that a recording may be read by an allocscope
that knows more than the one that made it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from allocscope.app import heap, mlocked
from allocscope.app.arenas import OTHER_ALLOCATOR, SMAPS_NOT_READ
from allocscope.app.target import Cpus, Target
from allocscope.errors import BadInput, NoGlibcHeap
from allocscope.files import RECORDING, kind_of
from allocscope.files.recording import Sample, open_sample
from allocscope.glibc.states import InvalidHeap
from allocscope.glibc.threads import ThreadHead
from allocscope.immutable import immutable, replace
from allocscope.model.heap import ArenasData
from allocscope.model.recording import Facts
from allocscope.model.report import Caveat, Method, Report

HELD_STILL = ("frozen", "quiescent")
SMAPS_UNTOLD = (
    "the figures of files and shared memory, and what is lazily freed (smaps was not read: "
    "`record --exact`)"
)
OWNERS_UNTOLD = "whose the memory beside malloc's is"


@immutable
class FileAnswer:
    """The report, from which sample (counted from 1), what else the file says of the process, and
    the reading that the report rests on."""

    report: Report[ArenasData]
    sample: int
    facts: Facts
    target: Target
    answer: heap.HeapAnswer


def arenas_of_file(path: Path, *, sample: int | None, deadline_s: float) -> FileAnswer:
    """The arenas that a recording tells of. ``sample``: counted from 1, the last by default.

    Raises BadInput (9), NoGlibcHeap (5)."""
    require_recording(path)
    deadline_ns = time.monotonic_ns() + int(deadline_s * 1e9)
    found = open_sample(path, sample)
    with found.memory:
        return arenas_of_sample(found, path, deadline_ns)


def require_recording(path: Path) -> None:
    """BadInput for a file of another kind."""
    if kind_of(path) != RECORDING:
        raise BadInput(
            f"{path} is a core file, and a recording is needed here",
            "A core does not tell what was resident; `allocscope arenas FILE` says what its heap "
            "holds. Record a process while it runs: `allocscope record PID -o FILE`.",
        )


def arenas_of_sample(
    found: Sample, path: Path, deadline_ns: int, *, pins: bool = False, pad_bytes: int = 0
) -> FileAnswer:
    """The same of an open sample. ``deadline_ns``: CLOCK_MONOTONIC; ``pins``: as in heap.read;
    ``pad_bytes``: of the malloc_trim that is foretold. NoGlibcHeap (5)."""
    started_ns = time.monotonic_ns()
    facts = found.facts
    target = target_of(facts)
    sort = heap.FROZEN if facts.consistency == heap.FROZEN else heap.VALIDATED
    try:
        answer = heap.read(
            found.memory,
            target,
            sort=sort,
            deadline_ns=deadline_ns,
            recorded=True,
            trim=mlocked.trim_among(facts.smaps, pad_bytes),
            pins=pins,
        )
    except (NoGlibcHeap, InvalidHeap) as error:
        raise NoGlibcHeap(
            f"{path}: {error.message}", "A later version of allocscope may know this layout."
        ) from error
    if facts.consistency not in HELD_STILL:
        answer = _in_motion(answer)
    data = heap.present(answer, target, rss_bytes=facts.rss_bytes, smaps=facts.smaps)
    consistency = answer.consistency if answer.consistency == "partial" else facts.consistency
    report = Report(
        process=facts.process,
        libc=answer.libc,
        allocator=facts.allocator,
        method=Method("recording", facts.pause_ns, time.monotonic_ns() - started_ns, consistency),
        data=data,
        caveats=(
            *_caveats(facts),
            *_locked_caveats(answer, facts),
            *heap.caveats(answer, data),
        ),
        captured_at=facts.captured_at,
    )
    return FileAnswer(report, found.number, facts, target, answer)


def _locked_caveats(answer: heap.HeapAnswer, facts: Facts) -> tuple[Caveat, ...]:
    status = None if facts.kernel is None else facts.kernel.status
    if facts.smaps is None and (status is None or not status.locked_bytes):
        return ()
    return mlocked.caveats(answer, facts.smaps)


def target_of(facts: Facts) -> Target:
    """The process as it was. A control block lies where the recording says, so the thread pointer
    stands for the robust list, from which it was once found."""
    heads = tuple(ThreadHead(t.tid, t.name, t.thread_pointer) for t in facts.threads)
    return Target(
        process=facts.process,
        mappings=facts.mappings,
        images=(facts.image, *facts.others),
        threads=heads,
        environ=facts.environ,
        cpus=Cpus(facts.cpus_online, facts.cpus_cgroup),
    )


def _in_motion(answer: heap.HeapAnswer) -> heap.HeapAnswer:
    """What does not fit together was recorded while it changed, not damaged."""
    arenas = tuple(replace(item, changed=bool(item.problems)) for item in answer.reading.arenas)
    return replace(answer, reading=replace(answer.reading, arenas=arenas), damage=())


def _caveats(facts: Facts) -> tuple[Caveat, ...]:
    unread = (SMAPS_NOT_READ,) if facts.smaps is None else ()
    return (*allocator_caveats(facts), *unread)


def allocator_caveats(facts: Facts) -> tuple[Caveat, ...]:
    """That glibc did not serve malloc."""
    if facts.allocator.name == "glibc":
        return ()
    return (Caveat("other-allocator", OTHER_ALLOCATOR.format(name=facts.allocator.name)),)


def not_recorded(missing: Sequence[str]) -> tuple[Caveat, ...]:
    """What this recording does not tell and another might; nothing where nothing is ``missing``."""
    if not missing:
        return ()
    return (Caveat("not-recorded", f"The recording does not tell: {'; '.join(missing)}."),)
