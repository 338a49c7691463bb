"""From findings to ranked causes: who gets which byte of the ledger, and what is worth telling.

Rules: findings take their bytes in the order of the rules, the most particular first, and a byte
goes to the first that wants it; then they rank by what they got. What got less than 1 % of RSS (or
1 MiB, if that is less) is not told, nor what got less than 64 KiB; but for what is worth knowing
without any bytes (a setting without effect).
"""

from __future__ import annotations

from collections.abc import Iterable

from allocscope.causes.finding import Cell, Finding
from allocscope.model.ledger import Cause, LedgerRow, healthy_bytes
from allocscope.model.situation import ArenaResidence, Situation
from allocscope.units import MIB

LEAST_BYTES = 64 << 10
LEAST_RATIO = 0.01
WITHOUT_BYTES = frozenset({"setting-without-effect", "descriptor-growth"})
"""Causes that are told although no bytes are known."""


def cells(residence: Iterable[ArenaResidence], rows: Iterable[LedgerRow]) -> dict[Cell, int]:
    """The resident bytes of every cell of the ledger."""
    found: dict[Cell, int] = {}
    for arena in residence:
        found["glibc-live", arena.index] = arena.live_bytes
        found["glibc-tcache", arena.index] = arena.tcache_bytes
        found["glibc-fastbin", arena.index] = arena.fastbin_bytes
        found["glibc-free-whole-pages", arena.index] = arena.whole_pages_bytes
        found["glibc-free-shared-pages", arena.index] = arena.shared_pages_bytes
        found["glibc-top", arena.index] = arena.top_bytes
    heap_rows = {key for key, _ in found} | {"glibc-overhead", "glibc-unread"}
    for row in rows:
        if row.key not in heap_rows:
            found[row.key, None] = row.resident_bytes
    return found


def rank(findings: Iterable[Finding], situation: Situation) -> tuple[tuple[Finding, int], ...]:
    """Findings with their exclusive bytes, by falling exclusive bytes. ``findings`` in the order
    in which they take."""
    left = cells(situation.residence, situation.ledger.rows)
    ranked = []
    for finding in findings:
        exclusive = finding.outside_bytes
        for cell, wanted in finding.takes:
            got = min(wanted, left.get(cell, 0))
            left[cell] = left.get(cell, 0) - got
            exclusive += got
        ranked.append((finding, exclusive))
    ranked.sort(key=lambda pair: (-pair[1], -pair[0].bytes))
    return tuple(pair for pair in ranked if _worth_telling(*pair, situation.rss_bytes))


def _worth_telling(finding: Finding, exclusive: int, rss_bytes: int) -> bool:
    least = max(LEAST_BYTES, min(MIB, LEAST_RATIO * rss_bytes))
    return finding.key in WITHOUT_BYTES or exclusive >= least


def matters(exclusive_bytes: int, rss_bytes: int) -> bool:
    """Is it more than a healthy process has?"""
    return exclusive_bytes > healthy_bytes(rss_bytes)


def cause(finding: Finding, exclusive_bytes: int, rss_bytes: int) -> Cause:
    return Cause(
        key=finding.key,
        title=finding.title,
        bytes=finding.bytes,
        exclusive_bytes=exclusive_bytes,
        share_of_rss_ratio=finding.bytes / rss_bytes if rss_bytes else 0.0,
        confidence=finding.confidence,
        evidence=finding.evidence,
        remedies=tuple(remedy for remedy in finding.remedies if remedy.gain_bytes != 0),
    )
