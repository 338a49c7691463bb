"""``explain``: where every resident byte of a process is, and why. It only reads.

The kernel's figures (smaps) and the heap are two readings of a process that runs on. They are made
at the same time, and again, a few times, as long as they do not agree to the byte.
"""

from __future__ import annotations

import contextlib
import time

from allocscope.account import ledger as account
from allocscope.app import heap, mlocked
from allocscope.app.arenas import allocator_of
from allocscope.app.locks import looks_at_locks
from allocscope.app.meanwhile import meanwhile
from allocscope.app.ownership import caveats as owner_caveats
from allocscope.app.ownership import holdings
from allocscope.app.page_map import page_map
from allocscope.app.target import Target, look
from allocscope.causes import explanation
from allocscope.errors import MissingPart
from allocscope.glibc.pieces import Trim
from allocscope.glibc.reading import MAX_ROUNDS
from allocscope.immutable import immutable, replace
from allocscope.model.ledger import Explanation, Ledger, healthy_bytes
from allocscope.model.owners import Holding
from allocscope.model.process import SmapsEntry, SmapsRollup
from allocscope.model.report import Caveat, Method, Report
from allocscope.model.situation import ArenaResidence, HugeUse, Situation
from allocscope.owners.divide import by_byte
from allocscope.owners.huge import huge_use
from allocscope.proc import cgroups, procfs
from allocscope.proc.cached import cached_files
from allocscope.proc.cgroup_memory import cgroup_memory
from allocscope.proc.memory import ProcessMemory
from allocscope.proc.mounts import tmpfs_devices
from allocscope.proc.outside import outside_rss
from allocscope.proc.swaps import swapping
from allocscope.units import size

MOST_ROUNDS = 3


@immutable
class ExplainOptions:
    """``deadline_s``: seconds after which nothing more is started. ``pages``: whether to tell what
    each page of the heaps is used for."""

    deadline_s: float = 30.0
    pages: bool = False


@immutable
class _Round:
    """One reading of smaps and the heap, and what they give together."""

    target: Target
    answer: heap.HeapAnswer
    entries: tuple[SmapsEntry, ...]
    holdings: tuple[Holding, ...]
    ledger: Ledger
    residence: tuple[ArenaResidence, ...]


def explain(pid: int, options: ExplainOptions) -> Report[Explanation]:
    """Why ``pid`` holds what it holds.

    Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5)."""
    return portrait(pid, options)[0]


def portrait(pid: int, options: ExplainOptions) -> tuple[Report[Explanation], Situation]:
    """The same, and what it rests on."""
    found = survey(pid, options)
    return explained(found), found.data


def explained(found: Report[Situation]) -> Report[Explanation]:
    """The explanation of a survey."""
    return Report(
        process=found.process,
        libc=found.libc,
        allocator=found.allocator,
        method=found.method,
        data=explanation.explain(found.data),
        caveats=found.caveats,
        captured_at=found.captured_at,
    )


def survey(pid: int, options: ExplainOptions) -> Report[Situation]:
    """Everything that an explanation rests on, and what draws the same picture in other ways."""
    started = time.monotonic_ns()
    deadline_ns = started + int(options.deadline_s * 1e9)
    target = look(pid)
    before = procfs.stillness(pid)
    trim = Trim(locked=mlocked.now(pid))
    with ProcessMemory(pid) as memory:
        memory.maps_pages = options.pages
        best = _best_round(memory, target, trim, deadline_ns)
        locks = looks_at_locks(memory, best.answer.reading)
        pages = page_map(memory, best.answer.reading, best.entries) if options.pages else None
        huge = _huge_use(memory, best)
        of_owners = owner_caveats(memory)
    rollup, status = _rollup(pid), procfs.status(pid)
    limits = cgroups.limits(pid)
    cached = cached_files(pid, best.entries, tmpfs_devices(pid))
    allocator, allocator_caveats = allocator_of(pid, target.mappings, best.answer.image)
    after = procfs.stillness(pid)
    procfs.same(target.process)
    data = heap.present(
        best.answer, best.target, rss_bytes=best.ledger.rss_bytes, smaps=best.entries
    )
    threads = target.process.thread_count
    outside = outside_rss(pid, status, threads, best.entries, cached)
    situation = Situation(
        process=target.process,
        allocator=allocator,
        ledger=best.ledger,
        holdings=best.holdings,
        smaps=best.entries,
        heap=data,
        residence=best.residence,
        rollup=rollup,
        status=status,
        limits=limits,
        contention=locks,
        environ=target.environ,
        pressure=cgroups.pressure(pid),
        outside=outside.facts,
        descriptors=outside.descriptors,
        cached=cached,
        pages=pages,
        huge=huge,
        swapping=swapping(),
        cgroup=cgroup_memory(pid),
    )
    consistency = best.answer.consistency_between(before, after)
    return Report(
        process=target.process,
        libc=best.answer.libc,
        allocator=allocator,
        method=Method("passive", 0, time.monotonic_ns() - started, consistency),
        data=situation,
        caveats=allocator_caveats
        + of_owners
        + mlocked.caveats(best.answer, best.entries)
        + heap.caveats(best.answer, data)
        + drift_caveats(best.ledger, MOST_ROUNDS),
    )


def _best_round(memory: ProcessMemory, target: Target, trim: Trim, deadline_ns: int) -> _Round:
    """The round with the least drift, the first one without any."""
    best = _round(memory, target, trim, deadline_ns)
    for _ in range(MOST_ROUNDS - 1):
        if not best.ledger.drift_bytes or time.monotonic_ns() > deadline_ns:
            break
        again = replace(target, mappings=procfs.mappings(target.process.pid))
        found = _round(memory, again, trim, deadline_ns, max_rounds=1)
        if abs(found.ledger.drift_bytes) < abs(best.ledger.drift_bytes):
            best = found
    return best


def _round(
    memory: ProcessMemory,
    target: Target,
    trim: Trim,
    deadline_ns: int,
    max_rounds: int = MAX_ROUNDS,
) -> _Round:
    pid = target.process.pid
    with meanwhile(lambda: procfs.smaps(pid)) as smaps:
        answer = heap.read(
            memory,
            target,
            sort=heap.VALIDATED,
            deadline_ns=deadline_ns,
            max_rounds=max_rounds,
            trim=trim,
        )
        entries = smaps()
    parts = holdings(pid, memory, target, answer.reading, entries)

    def resident(start: int, end: int) -> int:
        return by_byte(memory.residency, start, end).resident_bytes

    return _Round(
        target=target,
        answer=answer,
        entries=entries,
        holdings=parts,
        ledger=account.ledger(entries, parts, answer.reading, resident),
        residence=tuple(account.residence(arena, resident) for arena in answer.reading.arenas),
    )


def _huge_use(memory: ProcessMemory, found: _Round) -> HugeUse | None:
    """None where so little is in huge pages that it cannot matter."""
    huge_bytes = sum(part.huge_bytes or 0 for part in found.holdings)
    if huge_bytes <= healthy_bytes(found.ledger.rss_bytes):
        return None
    return huge_use(memory, found.holdings, memory.residency)


def _rollup(pid: int) -> SmapsRollup | None:
    with contextlib.suppress(MissingPart):
        return procfs.smaps_rollup(pid)
    return None


def drift_caveats(found: Ledger, rounds: int) -> tuple[Caveat, ...]:
    """That the ledger does not close, after so many readings."""
    if not found.drift_bytes:
        return ()
    each = f", in each of {rounds} readings" if rounds > 1 else ""
    text = (
        f"{size(abs(found.drift_bytes))} of RSS came or went between the kernel's count and this "
        f"one{each}."
    )
    return (Caveat("drift", text, partial=account.too_much_drift(found)),)
