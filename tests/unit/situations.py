"""Made-up situations for the rules: a process with arenas of given residence, and little else."""

from __future__ import annotations

import dataclasses
from typing import Any

from unit import reports

from allocscope.account.ledger import LABELS
from allocscope.model.heap import ParkedBy, ParkedEnd, Setting, TcacheGain
from allocscope.model.ledger import Ledger, LedgerKey, LedgerRow
from allocscope.model.owners import Holding
from allocscope.model.process import Mapping, SmapsEntry
from allocscope.model.situation import ArenaResidence, Situation

MIB = 1 << 20
NOTHING = ArenaResidence(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, None, 0)
SETTINGS = dataclasses.replace(
    reports.SETTINGS,
    trim_threshold_bytes=reports.default(128 << 10),
    mmap_threshold_bytes=reports.default(128 << 10),
)


def arena(index: int, **mib: int) -> ArenaResidence:
    """``live=8`` is live_bytes=8 MiB; ``index`` 0 is main."""
    return dataclasses.replace(
        NOTHING, index=index, **{f"{name}_bytes": size * MIB for name, size in mib.items()}
    )


def holding(key: Any, mib: int, owner: str = "somebody", path: str = "", **more: Any) -> Holding:
    size = mib * MIB
    return Holding(
        **{
            "start": 0,
            "end": size,
            "key": key,
            "owner": owner,
            "evidence": "seen",
            "perms": "rw-p",
            "path": path,
            "mapping_index": 0,
            "whole": True,
            "resident_bytes": size,
            "private_dirty_bytes": size,
            "lazyfree_bytes": 0,
            "swapped_bytes": 0,
            "huge_bytes": 0,
            **more,
        }
    )


def smaps(*, lazyfree: int = 0, swap: int = 0, dirty: int = 0) -> SmapsEntry:
    rss = lazyfree + dirty
    mapping = Mapping(0, 1 << 40, "rw-p", 0, "00:00", 0, "")
    return SmapsEntry(mapping, rss, dirty, lazyfree, lazyfree, swap, rss, 0, 0)


def parked_end(index: int, held: int, *, with_7: int | None = None) -> ParkedEnd:
    """7 chunks of thread 4712 hold ``held`` MiB; ``with_7``: what a tcache_count of 7 gives."""
    gains = [TcacheGain(0, held * MIB)]
    if with_7 is not None:
        gains.append(TcacheGain(7, with_7 * MIB))
    by = (ParkedBy(4712, 7, False),)
    return ParkedEnd(index, 0x7F00_0000_1000, 7, 7056, 0, by, tuple(gains))


def setting(value: int, origin: str = "default", **more: Any) -> Setting:
    return Setting(value, origin, "seen", **more)


def situation(
    *arenas: ArenaResidence,
    holdings: tuple[Holding, ...] = (),
    settings: Any = SETTINGS,
    huge_bytes: int = 0,
    parked_ends: tuple[ParkedEnd, ...] = (),
    **changes: Any,
) -> Situation:
    """The rows of the ledger are the sums of ``arenas`` and ``holdings``."""
    arenas = arenas or (NOTHING,)
    sums: dict[LedgerKey, int] = dict.fromkeys(LABELS, 0)
    for one in arenas:
        sums["glibc-live"] += one.live_bytes
        sums["glibc-tcache"] += one.tcache_bytes
        sums["glibc-fastbin"] += one.fastbin_bytes
        sums["glibc-free-whole-pages"] += one.whole_pages_bytes
        sums["glibc-free-shared-pages"] += one.shared_pages_bytes
        sums["glibc-top"] += one.top_bytes
        sums["glibc-overhead"] += one.overhead_bytes
    for part in holdings:
        if part.row is not None:
            sums[part.row] += part.resident_bytes
    rows = tuple(LedgerRow(key, LABELS[key], sums[key], sums[key], 0, 0, ()) for key in LABELS)
    made = [
        reports.arena(
            one.index,
            dataclasses.replace(
                reports.figures(
                    live=one.live_bytes,
                    bins=one.whole_pages_bytes + one.shared_pages_bytes,
                    top=one.top_bytes,
                    tcache=one.tcache_bytes,
                    fastbin=one.fastbin_bytes,
                    trimmable=one.whole_pages_bytes + one.top_trimmable_bytes,
                ),
                huge_bytes=huge_bytes,
            ),
        )
        for one in arenas
    ]
    heap = reports.report(made).data
    heap = dataclasses.replace(heap, settings=settings, parked_ends=parked_ends)
    return Situation(
        **{
            "process": reports.process(comm="server"),
            "allocator": None,
            "ledger": Ledger(sum(sums.values()), rows, 0),
            "holdings": holdings,
            "smaps": (smaps(),),
            "heap": heap,
            "residence": arenas,
            "rollup": None,
            "status": None,
            "limits": None,
            "outside": (),
            "pressure": None,
            "contention": None,
            "environ": None,
            **changes,
        }
    )
