"""``explain`` of a recording: the same ledger and the same rules, over what was recorded.

Strategy: malloc is read again from the recorded words; whose the other memory is was found out when
it was recorded, as claims, and is divided here as of a live process. Where smaps was not read, the
figures of a mapping are its recorded page states. Rules: what the file does not tell is in no row
but ``not-recorded``, is None, or is left out, and one caveat names all of that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from allocscope.account import ledger as account
from allocscope.app.arenas import SMAPS_NOT_READ
from allocscope.app.arenas_file import (
    OWNERS_UNTOLD,
    SMAPS_UNTOLD,
    FileAnswer,
    arenas_of_sample,
    not_recorded,
    require_recording,
)
from allocscope.app.explain import ExplainOptions, drift_caveats, explained
from allocscope.app.page_map import cells_by_heap
from allocscope.files.recording import Recording, Sample
from allocscope.immutable import immutable, replace
from allocscope.model.ledger import Explanation, Ledger, healthy_bytes
from allocscope.model.owners import Claim, Holding
from allocscope.model.page_map import PageMap
from allocscope.model.process import Mapping, SmapsEntry
from allocscope.model.recording import Facts
from allocscope.model.report import Caveat, Report
from allocscope.model.situation import Situation
from allocscope.native.memory import NativeMemory
from allocscope.owners.divide import by_byte, divide, without_figures
from allocscope.owners.heap import heap_claims
from allocscope.owners.mapped import files_of


@immutable
class FileSurvey:
    """What a sample tells: as of a live process, and which it is of how many, counted from 1."""

    report: Report[Situation]
    sample: int
    sample_count: int


def portrait_of_file(
    path: Path, options: ExplainOptions, *, sample: int | None
) -> tuple[Report[Explanation], Situation]:
    """Why the recorded process held what it held, and what that rests on. ``sample``: counted from
    1, the last by default.

    Raises BadInput (9), NoGlibcHeap (5), WrongUsage (2: no such sample)."""
    found = survey_file(path, options, sample=sample).report
    return explained(found), found.data


def survey_file(path: Path, options: ExplainOptions, *, sample: int | None) -> FileSurvey:
    """Everything that an explanation rests on. Raises as ``portrait_of_file``."""
    require_recording(path)
    deadline_ns = time.monotonic_ns() + int(options.deadline_s * 1e9)
    with Recording(path) as recording:
        number = recording.sample_count if sample is None else sample
        found = recording.sample(number)
        with found.memory:
            report = survey_sample(found, path, options.pages, deadline_ns)
        return FileSurvey(report, number, recording.sample_count)


def survey_sample(found: Sample, path: Path, pages: bool, deadline_ns: int) -> Report[Situation]:
    """The same of an open sample. ``deadline_ns``: CLOCK_MONOTONIC. NoGlibcHeap (5)."""
    found.memory.maps_pages = pages
    answer = arenas_of_sample(found, path, deadline_ns)
    facts = found.facts
    parts = holdings_of_file(answer, found.memory)

    def resident(start: int, end: int) -> int:
        return by_byte(found.memory.residency, start, end).resident_bytes

    ledger = _ledger(answer, parts, resident)
    kernel = facts.kernel
    situation = Situation(
        process=facts.process,
        allocator=facts.allocator,
        ledger=ledger,
        holdings=parts,
        smaps=facts.smaps or (),
        heap=answer.report.data,
        residence=tuple(
            account.residence(arena, resident) for arena in answer.answer.reading.arenas
        ),
        rollup=kernel.rollup if kernel else None,
        status=kernel.status if kernel else None,
        limits=kernel.limits if kernel else None,
        outside=kernel.outside if kernel else None,
        descriptors=kernel.descriptors if kernel else None,
        cached=kernel.cached if kernel else (),
        swapping=kernel.swapping if kernel else None,
        cgroup=kernel.cgroup if kernel else None,
        pressure=kernel.pressure if kernel else None,
        contention=facts.contention,
        environ=facts.environ,
        pages=_pages(answer, facts) if pages else None,
    )
    told = answer.report
    return Report(
        process=told.process,
        libc=told.libc,
        allocator=told.allocator,
        method=told.method,
        data=situation,
        caveats=(
            *(caveat for caveat in told.caveats if caveat != SMAPS_NOT_READ),  # said below
            *drift_caveats(ledger, rounds=1),
            *_not_recorded(facts, len(told.data.arenas)),
        ),
        captured_at=told.captured_at,
    )


# ---- whose the memory is ----


def holdings_of_file(
    answer: FileAnswer, memory: NativeMemory, *, all_mappings: bool = False
) -> tuple[Holding, ...]:
    """The mappings whose figures the recording tells, divided among their owners;
    ``all_mappings``: the others too, without figures."""
    facts = answer.facts
    entries = _entries(facts, memory)
    told = {entry.mapping.start for entry in entries}
    if all_mappings and facts.smaps is None:
        entries = tuple(_entry(mapping, memory) for mapping in facts.mappings)
    owned = facts.ownership
    claims = list(heap_claims(answer.answer.reading))
    if owned is None:
        claims += _of_nobody(facts.mappings)
    else:
        claims += owned.claims
    files = files_of(facts.mappings, owned.tmpfs_devices if owned else ())
    parts = divide(entries, claims, files, memory.residency)
    if facts.smaps is None:
        parts = tuple(replace(p, private_dirty_bytes=None, lazyfree_bytes=None) for p in parts)
        starts = [entry.mapping.start for entry in entries]
        return tuple(p if starts[p.mapping_index] in told else without_figures(p) for p in parts)
    return parts


def _of_nobody(mappings: tuple[Mapping, ...]) -> Iterator[Claim]:
    """A recording that was made before owners were recorded: all anonymous memory without a name
    but malloc's."""
    for mapping in mappings:
        if mapping.anonymous and not mapping.path and mapping.perms[:3] != "---":
            yield Claim(
                mapping.start,
                mapping.end,
                "not-recorded",
                "not recorded",
                "anonymous memory; this recording was made before owners were recorded",
            )


def _entries(facts: Facts, memory: NativeMemory) -> tuple[SmapsEntry, ...]:
    """The figures of smaps, or else of the mappings whose page states are recorded, and of those
    that cannot hold anything (no access)."""
    if facts.smaps is not None:
        return facts.smaps
    known = [
        m
        for m in facts.mappings
        if m.private and (m.writable or m.perms.startswith("---")) and not m.hugetlb
    ]
    if facts.ownership is None:
        known = [m for m in known if m.anonymous]
    return tuple(_entry(mapping, memory) for mapping in known)


def _entry(mapping: Mapping, memory: NativeMemory) -> SmapsEntry:
    states = memory.residency(mapping.start, mapping.end)
    return SmapsEntry(
        mapping=mapping,
        rss_bytes=states.resident_bytes,
        private_dirty_bytes=0,
        private_clean_bytes=0,
        lazyfree_bytes=0,
        swap_bytes=states.swapped_bytes,
        anonymous_bytes=0,
        anon_huge_bytes=states.huge_bytes,
        locked_bytes=0,
    )


def _ledger(answer: FileAnswer, parts: tuple[Holding, ...], resident: account.Sizes) -> Ledger:
    facts = answer.facts
    if facts.smaps is not None:
        found = account.ledger(facts.smaps, parts, answer.answer.reading, resident)
        return found if facts.ownership is not None else account.of_a_part(found, None)
    found = account.ledger((), parts, answer.answer.reading, resident)
    return account.of_a_part(found, facts.rss_bytes)


def _pages(answer: FileAnswer, facts: Facts) -> PageMap:
    """Which pages are lazily freed no recording tells, only whether there are any."""
    heaps = cells_by_heap(answer.answer.reading)
    none = facts.smaps is not None and not any(entry.lazyfree_bytes for entry in facts.smaps)
    return PageMap(heaps, lazy_known=none)


# ---- what is not known ----


def _not_recorded(facts: Facts, arena_count: int) -> tuple[Caveat, ...]:
    missing = []
    if arena_count > 1 and facts.contention is None:
        missing.append("how often the arenas' locks are contended")
    if facts.smaps is None:
        missing.append(SMAPS_UNTOLD)
    elif sum(entry.anon_huge_bytes for entry in facts.smaps) > healthy_bytes(facts.rss_bytes):
        missing.append("what of its huge pages was never written")
    if facts.ownership is None:
        missing.append(OWNERS_UNTOLD)
    if facts.kernel is None:
        missing.append("peak and footprint, limits and pressure, sockets and open files")
    elif facts.kernel.rollup is None:
        missing.append("the footprint")
    return not_recorded(missing)
