"""The explanation: every rule asked, causes ranked, one sentence that says it all.

Rules: a process in which no cause holds more than max(16 MiB, 10 % of RSS) is healthy, and that is
said first; the smaller things follow. It is not said where as much is unexplained. The verdict
names the process, its RSS, and the first cause with what it would give back.
"""

from __future__ import annotations

from allocscope.account.footprint import footprint_bytes
from allocscope.causes import (
    elsewhere,
    outside,
    pages,
    parked,
    rank,
    retained,
    runtimes,
    settings,
    slabs,
    spread,
)
from allocscope.causes.finding import Finding, Rule, share
from allocscope.model.ledger import Cause, Explanation, healthy_bytes
from allocscope.model.situation import Situation
from allocscope.units import size

RULES: tuple[Rule, ...] = (
    pages.lazyfree_held,
    pages.thp_inflation,
    retained.locked_free,
    parked.parked_top,
    spread.arena_spread,
    retained.top_pinned,
    settings.raised_thresholds,
    parked.tcache_hoard,
    parked.fastbin_hoard,
    spread.thread_top,
    retained.untrimmed_free,
    retained.scattered_live,
    slabs.slab_growth,
    elsewhere.large_live,
    runtimes.runtime_heap,
    elsewhere.other_allocator,
    elsewhere.file_cache,
    elsewhere.shared_memory,
    pages.fork_sharing,
    pages.swapped_out,
    outside.tmpfs_held,
    outside.kernel_memory,
    outside.descriptor_growth,
    settings.setting_without_effect,
)
"""In the order in which they take their bytes: the more particular before the more general."""
REMEDIES = {
    "trim": "malloc_trim(0)",
    "lock-less": "unlocking and trimming",
    "reclaim": "reclaiming them",
    "no-thp": "doing without huge pages",
    "tcache-count": "a smaller tcache_count",
    "thresholds": "fixed thresholds",
}
"""Those whose gain can be known, as the verdict calls them."""


def explain(situation: Situation) -> Explanation:
    """The data of the contract."""
    findings = [found for rule in RULES if (found := rule(situation)) is not None]
    ranked = rank.rank(findings, situation)
    rss = situation.rss_bytes
    causes = tuple(rank.cause(found, exclusive, rss) for found, exclusive in ranked)
    weighty = [found for found, exclusive in ranked if rank.matters(exclusive, rss)]
    unknown = situation.ledger.resident("unexplained", "not-recorded")
    healthy = not weighty and not rank.matters(unknown, rss)
    if healthy:
        causes = (_healthy(situation), *causes)
    limits = situation.limits
    return Explanation(
        rss_bytes=rss,
        peak_rss_bytes=None if situation.status is None else situation.status.peak_rss_bytes,
        footprint_bytes=_footprint_bytes(situation),
        ledger=situation.ledger.rows,
        drift_bytes=situation.ledger.drift_bytes,
        outside_rss=situation.outside,
        causes=causes,
        verdict=_verdict(situation, weighty, healthy),
        memory_limit_bytes=limits.memory_limit_bytes if limits else None,
        memory_headroom_bytes=limits.memory_headroom_bytes if limits else None,
        pressure=situation.pressure,
        cgroup=situation.cgroup,
    )


def _footprint_bytes(situation: Situation) -> int | None:
    if situation.rollup is None or situation.status is None:
        return None
    return footprint_bytes(situation.status, situation.rollup)


def _healthy(situation: Situation) -> Cause:
    live = situation.ledger.resident("glibc-live", "glibc-mmapped")
    return Cause(
        key="healthy",
        title="Nothing is held that is worth a remedy",
        bytes=0,
        exclusive_bytes=0,
        share_of_rss_ratio=0.0,
        confidence="measured",
        evidence=(
            f"no cause holds more than {size(healthy_bytes(situation.rss_bytes))} (16 MiB, or 10 % "
            f"of RSS where that is more); {size(live)} of malloc's memory are in use",
        ),
        remedies=(),
    )


def _verdict(situation: Situation, weighty: list[Finding], causes_known: bool) -> str:
    rss = situation.rss_bytes
    start = f"{situation.process.comm} (pid {situation.process.pid}) has {size(rss)} resident"
    if not weighty and causes_known:
        return f"{start} and holds nothing worth a remedy: healthy."
    if not weighty:
        return f"{start}, of which {_unknown(situation)}."
    first = weighty[0]
    if first.outside_bytes:
        said = f"{start}, and {first.headline}"
    else:
        said = f"{start}, of which {first.headline} ({share(first.bytes, rss)})"
    gains = [r for r in first.remedies if r.gain_bytes]
    if gains and gains[0].gain_bytes:
        name = REMEDIES.get(gains[0].key, gains[0].key)
        said += f"; {name} would give back about {size(gains[0].gain_bytes)}"
    return f"{said}."


def _unknown(situation: Situation) -> str:
    """The larger of what is unexplained and what was not recorded."""
    rss = situation.rss_bytes
    unexplained, unrecorded = (
        situation.ledger.resident("unexplained"),
        situation.ledger.resident("not-recorded"),
    )
    if unrecorded > unexplained:
        return f"{size(unrecorded)} have an owner that was not recorded ({share(unrecorded, rss)})"
    return (
        f"{size(unexplained)} are unexplained: no structure of a known owner was found there "
        f"({share(unexplained, rss)})"
    )
