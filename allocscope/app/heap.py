"""From memory to the data of ``arenas``: used for a live process and for a frozen copy of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from allocscope.account import arenas as account
from allocscope.account import settings as account_settings
from allocscope.app.target import Target, find_malloc
from allocscope.glibc.reading import HeapReading, Subject, read_heap
from allocscope.model.heap import ArenasData
from allocscope.model.libc import Libc, LibcImage
from allocscope.model.process import SmapsEntry
from allocscope.model.report import Caveat
from allocscope.observe import cgroups, cpus
from allocscope.observe.memory import ProcessMemory

SAFE_LINKING_SINCE = (2, 32)


@dataclasses.dataclass(frozen=True, slots=True)
class HeapAnswer:
    """A reading with what was made of it. ``consistency`` is what the weakest arena has."""

    reading: HeapReading
    image: LibcImage
    libc: Libc
    data: ArenasData
    caveats: tuple[Caveat, ...]
    consistency: str


def _safe_linking_by_version(version: str | None) -> bool:
    """What to assume where all lists are empty (a1a486d70e, 2.32); it decides nothing then."""
    try:
        return tuple(int(p) for p in (version or "").split(".")[:2]) >= SAFE_LINKING_SINCE
    except ValueError:
        return True


def _parked_sizes(memory: ProcessMemory, reading: HeapReading) -> dict[int, tuple[int, int]]:
    """How many chunks each thread's tcache holds, and their bytes."""
    sizes = {}
    for tid, chunks in reading.marks.by_tcache.items():
        found = memory.read_each([chunk + 8 for chunk in chunks], 8)
        total = sum(int.from_bytes(data, "little") & ~7 for data in found if data is not None)
        sizes[tid] = (len(chunks), total)
    return sizes


def read(
    memory: ProcessMemory,
    target: Target,
    *,
    rss_bytes: int,
    smaps: Sequence[SmapsEntry] | None,
    validated_as: str,
    deadline_ns: int,
) -> HeapAnswer:
    """Reads the heap through ``memory``. ``validated_as``: what a validated arena may call itself (frozen or validated).

    Raises NoGlibcHeap, InvalidHeap (exit 5), NoSuchProcess, PermissionRefused."""
    memory.deadline_ns = deadline_ns
    located, image = find_malloc(memory, target)
    subject = Subject(
        memory=memory,
        walker=memory,
        located=located,
        threads=target.threads,
        spans=target.anonymous_spans,
        brk_end=max((end for _, end in target.brk_spans), default=0),
        safe_linking_default=_safe_linking_by_version(image.version),
    )
    reading = read_heap(
        subject,
        version=image.version,
        expired=lambda: time.monotonic_ns() > deadline_ns,
        frozen=validated_as == "frozen",
    )
    mmapped_resident = sum(
        memory.residency(start, end).resident_bytes for start, end in reading.mmapped
    )
    arenas = tuple(account.arena(item, smaps, validated_as) for item in reading.arenas)
    totals = account.totals([arena.figures for arena in arenas])
    settings = account_settings.settings(
        reading.par,
        len(arenas),
        account_settings.Surroundings(
            environ=target.environ,
            cpus_online=cpus.online(),
            cpus_cgroup=cgroups.cpu_quota(target.process.pid),
            version=image.version,
        ),
    )
    data = ArenasData(
        rss_bytes=rss_bytes,
        arenas=arenas,
        mmapped=account.mmapped(reading, mmapped_resident),
        totals=totals,
        settings=settings,
        size_classes=account.size_classes(reading),
        threads=account.thread_caches(reading, _parked_sizes(memory, reading)),
    )
    caveats = tuple(_caveats(reading, data, validated_as))
    partial = any(arena.consistency == "partial" for arena in arenas)
    libc = Libc(
        kind=image.kind,
        version=image.version,
        banner=image.banner,
        path=image.path,
        build_id=image.build_id,
        layout=reading.layout.name,
        safe_linking=reading.safe_linking,
    )
    return HeapAnswer(
        reading, image, libc, data, caveats, "partial" if partial else validated_as
    )


def _caveats(reading: HeapReading, data: ArenasData, validated_as: str) -> list[Caveat]:
    found = []
    for item, arena in zip(reading.arenas, data.arenas, strict=True):
        where = f"arena {arena.index}"
        if item.problems:
            frozen = validated_as == "frozen"
            meaning = "an operation was under way at that instant" if frozen else "its figures are approximate"
            text = f"{where} could not be validated: {'; '.join(item.problems)}; {meaning}."
            found.append(Caveat("arena-in-flight" if frozen else "arena-not-validated", text, not frozen))
        if arena.figures.unread_bytes:
            text = f"{where}: {arena.figures.unread_bytes} bytes could not be read (swapped out, or damaged)."
            found.append(Caveat("unread", text, partial=True))
        if arena.figures.residue_bytes:
            text = f"{where}: {arena.figures.residue_bytes} bytes of its system bytes are not accounted for."
            found.append(Caveat("residue", text, partial=True))
    mmapped = data.mmapped
    if (mmapped.count, mmapped.bytes) != (mmapped.found_count, mmapped.found_bytes):
        text = (
            f"glibc counts {mmapped.count} chunks with mappings of their own ({mmapped.bytes} bytes); "
            f"{mmapped.found_count} ({mmapped.found_bytes} bytes) were found by their headers."
        )
        found.append(Caveat("mmapped-not-found", text))
    if reading.marks.broken:
        text = f"Lists that did not end as they should: {', '.join(reading.marks.broken[:8])}."
        found.append(Caveat("broken-lists", text))
    return found
