"""A hand-made report, in the shape of a Ruby server with many threads, for the tests of render
and cli.
"""

from __future__ import annotations

import dataclasses

from allocscope.model.glibc_says import Difference, GlibcSays, MallocInfo, MallocStats
from allocscope.model.heap import (
    Arena,
    ArenasData,
    Figures,
    Heap,
    Mmapped,
    Overhead,
    Setting,
    Settings,
    SizeClass,
    ThreadCache,
)
from allocscope.model.libc import Allocator, Libc
from allocscope.model.process import Process
from allocscope.model.report import Caveat, Method, Report

MIB = 1 << 20
HEAP_MAX = 64 * MIB


def figures(
    *,
    live: int,
    bins: int,
    top: int,
    tcache: int = 40_960,
    fastbin: int = 8_192,
    header: int = 2_256,
    away: int = 0,
    pinned: int = 0,
    trimmable: int = 0,
) -> Figures:
    """An arena whose identity closes; ``away`` bytes of its bins are not resident."""
    overhead = Overhead(arena_headers_bytes=header, tcache_struct_bytes=656)
    system = live + bins + top + tcache + fastbin + overhead.total_bytes
    return Figures(
        system_bytes=system,
        max_system_bytes=system,
        live_bytes=live,
        live_count=live // 96,
        tcache_bytes=tcache,
        tcache_count=tcache // 64,
        fastbin_bytes=fastbin,
        fastbin_count=fastbin // 64,
        bin_bytes=bins,
        bin_count=bins // 4096,
        top_bytes=top,
        overhead_bytes=overhead.total_bytes,
        overhead=overhead,
        unread_bytes=0,
        residue_bytes=0,
        resident_bytes=system - away,
        private_dirty_bytes=system - away,
        swapped_bytes=0,
        lazyfree_bytes=0,
        huge_bytes=0,
        free_resident_bytes=bins + top + tcache + fastbin - away,
        trimmable_bytes=trimmable,
        pinned_bytes=pinned,
    )


def added(parts: list[Figures]) -> Figures:
    """The sums of several arenas."""
    sums: dict[str, int] = {}
    for field in dataclasses.fields(Figures):
        if field.name != "overhead":
            sums[field.name] = sum(getattr(part, field.name) for part in parts)
    overhead = Overhead(
        *(
            sum(getattr(part.overhead, field.name) for part in parts)
            for field in dataclasses.fields(Overhead)
        )
    )
    return Figures(overhead=overhead, **sums)


def arena(
    index: int, own: Figures, threads: int | None = 1, consistency: str = "validated"
) -> Arena:
    """An arena of as many heaps as it needs; what is free lies in the last ones."""
    start = 0x55D0_0000_0000 if index == 0 else 0x7F00_0000_0000 + index * 0x1_0000_0000
    reach = own.system_bytes if index == 0 else HEAP_MAX
    heaps = []
    live, free, free_resident = own.live_bytes, own.free_resident_bytes, own.free_resident_bytes
    resident, trimmable, left = own.resident_bytes, own.trimmable_bytes, own.system_bytes
    while left:
        used = min(reach, left)
        here_live, here_free = min(live, used), min(free, used)
        here_resident, here_trim = min(resident, used), min(trimmable, used)
        heaps.append(
            Heap(
                start=start + len(heaps) * reach,
                end=start + len(heaps) * reach + used,
                reserved_bytes=reach,
                resident_bytes=here_resident,
                swapped_bytes=0,
                huge_bytes=0,
                live_bytes=here_live,
                live_count=here_live // 96,
                free_bytes=here_free,
                free_resident_bytes=min(free_resident, here_resident),
                trimmable_bytes=here_trim,
                holds_top=left <= reach,
            )
        )
        left, live, free = left - used, live - here_live, free - here_free
        resident, trimmable = resident - here_resident, trimmable - here_trim
        free_resident -= heaps[-1].free_resident_bytes
    return Arena(
        index=index,
        address=0x7F8A_5E1F_6C60 if index == 0 else start + 48,
        is_main=index == 0,
        attached_threads=threads,
        locked=False,
        consistency=consistency,
        figures=own,
        heaps=tuple(heaps),
    )


def default(value: int) -> Setting:
    return Setting(value, "default", "mp_ holds glibc's own default")


SETTINGS = Settings(
    arena_max=default(0),
    arena_test=default(8),
    arena_limit=16,
    arena_count=4,
    cpus_online=2,
    cpus_cgroup=1.5,
    mmap_threshold_bytes=Setting(
        4 * MIB, "dynamic", "raised by freeing a mmapped chunk of that size"
    ),
    trim_threshold_bytes=Setting(8 * MIB, "dynamic", "twice the mmap threshold"),
    top_pad_bytes=default(131_072),
    mmap_max=default(65_536),
    thresholds_dynamic=True,
    tcache_count=Setting(32, "tunable", "GLIBC_TUNABLES=glibc.malloc.tcache_count=32"),
    tcache_max_bytes=default(1032),
    hugetlb=default(0),
)

LIBC = Libc(
    kind="glibc",
    version="2.36",
    banner="GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.",
    path="/usr/lib/x86_64-linux-gnu/libc.so.6",
    build_id="3b5a6f0c3e1d4a58b2a1",
    layout="C/heap48/T4/P4",
    safe_linking=True,
)

PASSIVE = Method(source="passive", pause_ns=0, elapsed_ns=81_000_000, consistency="quiescent")


def process(pid: int = 4711, comm: str = "ruby") -> Process:
    return Process(pid, 8_812_345, comm, "/usr/bin/ruby3.1", 21, 11_520.25)


def report(
    arenas: list[Arena] | None = None, pid: int = 4711, comm: str = "ruby"
) -> Report[ArenasData]:
    """Four arenas, 412 MiB of RSS, most of it free and trimmable."""
    if arenas is None:
        arenas = [
            arena(0, figures(live=30 * MIB, bins=9 * MIB, top=2 * MIB, header=0, pinned=4 * MIB,
                             trimmable=7 * MIB), threads=2),
            arena(1, figures(live=21 * MIB, bins=150 * MIB, top=132_096, pinned=3 * MIB,
                             trimmable=142 * MIB, away=2 * MIB), threads=10),
            arena(2, figures(live=17 * MIB, bins=120 * MIB, top=90_112, pinned=2 * MIB,
                             trimmable=116 * MIB), threads=9),
            arena(3, figures(live=24_576, bins=0, top=65_536, tcache=0, fastbin=0), threads=0),
        ]  # fmt: skip
    totals = added([a.figures for a in arenas])
    mmapped = Mmapped(3, 33 * MIB, 3, 33 * MIB, 31 * MIB)
    data = ArenasData(
        rss_bytes=totals.resident_bytes + mmapped.resident_bytes + 14 * MIB,
        arenas=tuple(arenas),
        mmapped=mmapped,
        totals=totals,
        settings=SETTINGS,
        size_classes=SIZE_CLASSES,
        threads=THREADS,
    )
    caveats = (Caveat("smaps-skipped", "private_dirty_bytes was not read: RSS is above 1 GiB."),)
    return Report(process(pid, comm), LIBC, Allocator("glibc", ()), PASSIVE, data, caveats)


SIZE_CLASSES = (
    SizeClass(32, 32, 90_000, 2_880_000, 700, 22_400, 20, 640, 5, 160, 8_021),
    SizeClass(96, 96, 400_000, 38_400_000, 1_100, 105_600, 60, 5_760, 100, 9_600, 9_990),
    SizeClass(4_096, 4_591, 6_000, 25_165_824, 0, 0, 0, 0, 30_000, 122_880_000, 7_800),
)

THREADS = (
    ThreadCache(4711, "ruby", 0, 0x55D0_0000_0010, 610, 39_040),
    ThreadCache(4712, "worker-1", 1, 0x7F00_0400_08D0, 640, 40_960),
    ThreadCache(4713, "worker \x1b[2J[red]", None, None, 0, 0),
)


def glibc_says(agrees: bool = True) -> GlibcSays:
    info = MallocInfo((), 0, 0, 7, 4096, 3, 33 * MIB, 300 * MIB, 300 * MIB, 300 * MIB, 300 * MIB)
    differences = () if agrees else (
        Difference(2, "rest_bytes", 126_000_000, 125_829_120, ""),
        Difference(None, "mmap_count", 4, 3, "a chunk was being freed"),
    )  # fmt: skip
    return GlibcSays(
        source="snapshot",
        pause_ns=1_900_000,
        malloc_info=info,
        malloc_stats=MallocStats((), 0, 0, 3, 33 * MIB),
        agrees=agrees,
        differences=differences,
        locks_held=("arena 1", "stderr"),
        drift_bytes=-1_258_291,
    )
