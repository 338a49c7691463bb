"""The explanation of a core: what the heap's own structure shows, and how much of it there can have
been in memory.

Strategy: the rules are those of a live process, over a situation in which everything counts as
resident that can have been (``at_most``); beside each cause stands what of its bytes lies on pages
that are not zeros. Rules: nothing is measured, so every cause is inferred and says "at most"; no
remedy's gain is known; rules that need the kernel's word are not asked. A process is called healthy
only where no cause can have held more than a healthy process has, whatever its RSS was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from allocscope.causes import elsewhere, parked, rank, retained, runtimes, settings, spread
from allocscope.causes.finding import Cell, Finding, Rule, share
from allocscope.immutable import replace
from allocscope.model.core_explanation import CoreExplanation, CoreRow
from allocscope.model.ledger import Cause, Ledger, LedgerKey, Remedy, healthy_bytes
from allocscope.model.situation import ArenaResidence, Situation
from allocscope.units import size

RULES: tuple[Rule, ...] = (
    parked.parked_top,
    spread.arena_spread,
    retained.top_pinned,
    settings.raised_thresholds,
    parked.tcache_hoard,
    parked.fastbin_hoard,
    spread.thread_top,
    retained.untrimmed_free,
    retained.scattered_live,
    elsewhere.large_live,
    runtimes.runtime_heap,
    elsewhere.other_allocator,
)
"""In the order of causes.explanation."""
FREE: tuple[LedgerKey, ...] = (
    "glibc-tcache",
    "glibc-fastbin",
    "glibc-free-whole-pages",
    "glibc-free-shared-pages",
    "glibc-top",
)
LIVE: tuple[LedgerKey, ...] = ("glibc-live", "glibc-mmapped")
OF_FILES: frozenset[LedgerKey] = frozenset(
    {"file-private", "file-shared", "shared-memory", "program-data"}
)
CERTAIN_BYTES = healthy_bytes(0)
"""What a cause may hold in a healthy process of any size."""


def explain_core(
    most: Situation, nonzero: Ledger, residence: Sequence[ArenaResidence]
) -> CoreExplanation:
    """The data of the contract. ``most``: as if all had been resident that can have been;
    ``nonzero`` and ``residence``: as if only pages that are not zeros had been."""
    findings = [found for rule in RULES if (found := rule(most)) is not None]
    seen = rank.cells(residence, nonzero.rows)
    ranked = rank.rank(findings, most)
    causes = tuple(_cause(found, exclusive, seen, most.rss_bytes) for found, exclusive in ranked)
    largest = max((exclusive for _, exclusive in ranked), default=0)
    if max(largest, most.ledger.resident("unexplained")) <= CERTAIN_BYTES:
        causes = (_healthy(most), *causes)
    rows = zip(most.ledger.rows, nonzero.rows, strict=True)
    return CoreExplanation(
        ledger=tuple(
            CoreRow(
                key=row.key,
                label=row.label,
                virtual_bytes=row.virtual_bytes,
                evidence=row.evidence,
                nonzero_bytes=None if row.key in OF_FILES else least.resident_bytes,
            )
            for row, least in rows
        ),
        causes=causes,
        verdict=_verdict(most, nonzero),
    )


def _cause(found: Finding, exclusive: int, seen: Mapping[Cell, int], whole: int) -> Cause:
    least = sum(min(wanted, seen.get(cell, 0)) for cell, wanted in found.takes)
    cause = rank.cause(found, exclusive, whole)
    return replace(
        cause,
        share_of_rss_ratio=None,
        confidence="hint" if found.confidence == "hint" else "inferred",
        evidence=(
            f"at most, for a core does not tell what was resident: {size(least)} of it lie on "
            "pages that are not zeros and were in memory or in swap",
            *cause.evidence,
        ),
        remedies=tuple(_of_unknown_gain(remedy) for remedy in cause.remedies),
    )


def _of_unknown_gain(remedy: Remedy) -> Remedy:
    return replace(remedy, gain_bytes=None, gain_is="unknown")


def _healthy(most: Situation) -> Cause:
    return Cause(
        key="healthy",
        title="Nothing can have been held that is worth a remedy",
        bytes=0,
        exclusive_bytes=0,
        share_of_rss_ratio=None,
        confidence="inferred",
        evidence=(
            f"no cause can have held more than {size(CERTAIN_BYTES)}, whatever was resident; "
            f"{size(most.ledger.resident(*LIVE))} of malloc's memory were in use",
        ),
        remedies=(),
    )


def _verdict(most: Situation, nonzero: Ledger) -> str:
    live, free = most.ledger.resident(*LIVE), most.ledger.resident(*FREE)
    process = most.process
    who = f"{process.comm or 'the process'} (pid {process.pid})"
    return (
        f"{who} held {size(live + free)} in malloc, of which {size(live)} are live and "
        f"{size(free)} free ({share(free, live + free)}); a core does not tell what was resident: "
        f"of the free memory {size(nonzero.resident(*FREE))} were in memory or in swap."
    )
