"""Holds what allocscope reads in a process against what that process knows of itself.

Strategy: the program's own arithmetic gives what is alive; glibc's mallinfo, called by the program,
gives the rest. Every comparison is exact; each that fails becomes one line of text.

mallinfo's fields: ``arena`` is the sum of system bytes; ``fordblks`` what is free in bins, fastbins
and tops; ``smblks`` and ``fsmblks`` the fastbins; ``ordblks`` the binned chunks and one top for
each arena; ``hblks`` and ``hblkhd`` the mappings; ``keepcost`` the main arena's top (glibc
malloc.c, int_mallinfo).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from allocscope.model.heap import ArenasData, Figures
from allocscope.model.report import Report


def stress_differences(report: Report[ArenasData], truth: Mapping[str, Any]) -> list[str]:
    """What does not agree with the stress program's truth; empty when all does."""
    return [*broken_sums(report), *unlike_program(report, truth), *unlike_glibc(report, truth)]


def fixture_differences(report: Report[ArenasData], truth: Mapping[str, int | None]) -> list[str]:
    """What does not agree with a fixture's truth (fixtures/common/truth.h lists its figures)."""
    totals, mmapped = report.data.totals, report.data.mmapped
    own = {name: truth[f"glibc_own_{name}"] or 0 for name in ("bytes", "count")}
    pairs = {
        "live_count": totals.live_count - own["count"],
        "live_chunk_bytes": totals.live_bytes - own["bytes"],
        "mmapped_count": mmapped.found_count,
        "mmapped_bytes": mmapped.found_bytes,
        "tcache_count": totals.tcache_count,
        "tcache_bytes": totals.tcache_bytes,
        "system_bytes": totals.system_bytes,
        "free_bytes": free_bytes(totals),
        "fastbin_bytes": totals.fastbin_bytes,
        "fastbin_count": totals.fastbin_count,
    }
    known = {n: (ours, true) for n, ours in pairs.items() if (true := truth[n]) is not None}
    return [*broken_sums(report), *unequal(**known)]


def free_bytes(totals: Figures) -> int:
    """What glibc counts as free: it does not count the tcache."""
    return totals.top_bytes + totals.fastbin_bytes + totals.bin_bytes


def broken_sums(report: Report[ArenasData]) -> list[str]:
    """Arenas that do not add up or were not read whole."""
    lines = [
        f"arena {arena.index}: {name} {value}"
        for arena in report.data.arenas
        for name, value in (
            ("residue_bytes", arena.figures.residue_bytes),
            ("unread_bytes", arena.figures.unread_bytes),
        )
        if value
    ]
    return lines + [f"caveat {c.code}: {c.message}" for c in report.caveats if c.partial]


def unlike_program(report: Report[ArenasData], truth: Mapping[str, Any]) -> list[str]:
    """Where our reading differs from the program's own arithmetic."""
    totals, mmapped = report.data.totals, report.data.mmapped
    own_bytes, own_count = truth["glibc_own_bytes"], truth["glibc_own_count"]
    return unequal(
        live_bytes=(totals.live_bytes, truth["live_bytes"] + own_bytes),
        live_count=(totals.live_count, truth["live_count"] + own_count),
        found_mmapped_count=(mmapped.found_count, truth["mmapped_count"]),
        found_mmapped_bytes=(mmapped.found_bytes, truth["mmapped_bytes"]),
        foreign_brk_bytes=(totals.overhead.foreign_brk_bytes, truth["foreign_brk_bytes"]),
    )


def unlike_glibc(report: Report[ArenasData], truth: Mapping[str, Any]) -> list[str]:
    """Where our reading differs from mallinfo."""
    totals, mmapped, says = report.data.totals, report.data.mmapped, truth["mallinfo"]
    return unequal(
        system_bytes=(totals.system_bytes, says["arena"]),
        free_bytes=(free_bytes(totals), says["fordblks"]),
        free_count=(totals.bin_count + len(report.data.arenas), says["ordblks"]),
        fastbin_bytes=(totals.fastbin_bytes, says["fsmblks"]),
        fastbin_count=(totals.fastbin_count, says["smblks"]),
        main_top_bytes=(report.data.arenas[0].figures.top_bytes, says["keepcost"]),
        mmapped_count=(mmapped.count, says["hblks"]),
        mmapped_bytes=(mmapped.bytes, says["hblkhd"]),
    )


def unequal(**pairs: tuple[int, int]) -> list[str]:
    return [
        f"{name}: read {ours}, true {true} ({ours - true:+d})"
        for name, (ours, true) in pairs.items()
        if ours != true
    ]
