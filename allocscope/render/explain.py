"""``explain`` for people: the verdict, the ledger as a bar and as rows, what lies outside RSS, and
the causes with their remedies.

Rules: rows stand in the ledger's order and only where something is resident; the bar has the same
order and one letter for each row, so that it reads without colours; every cause says how it is
known, every remedy what it would give back and what it costs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from allocscope.model.core_explanation import CoreRow
from allocscope.model.ledger import (
    Cause,
    CauseKey,
    Explanation,
    LedgerKey,
    LedgerRow,
    Remedy,
    healthy_bytes,
)
from allocscope.model.process import CgroupMemory, Pressure
from allocscope.model.report import Report
from allocscope.render import sentences
from allocscope.render.bar import stacked
from allocscope.render.columns import GAP, Column, fit
from allocscope.render.page import Look, Page
from allocscope.render.text import clean, plural, signed_size, size, unit_for

LETTERS: dict[LedgerKey, str] = {
    "glibc-live": "L",
    "glibc-tcache": "t",
    "glibc-fastbin": "f",
    "glibc-free-whole-pages": "F",
    "glibc-free-shared-pages": "s",
    "glibc-top": "T",
    "glibc-overhead": "o",
    "glibc-unread": "u",
    "glibc-mmapped": "M",
    "other-allocator": "A",
    "runtime-heap": "R",
    "thread-stacks": "k",
    "file-private": "c",
    "file-shared": "m",
    "shared-memory": "h",
    "program-data": "d",
    "loader-and-special": "l",
    "unexplained": "?",
    "not-recorded": "-",
}
WELL_KNOWN = {
    "measured": "measured",
    "inferred": "inferred from what was measured",
    "hint": "a hint, not a measurement",
}
OUTSIDE: frozenset[CauseKey] = frozenset({"kernel-memory", "swapped-out", "tmpfs-held"})
"""Causes whose bytes no RSS counts."""
LEAST_EVIDENCE = 20
MOSTLY_OWN_RATIO = 0.95
"""What others count too is told below this share."""
LEAST_STALL = 0.01
"""Pressure below this share of time is not worth a line."""


def explain(report: Report[Explanation], look: Look) -> str:
    """The whole text, ended by a newline."""
    page = Page(look)
    data = report.data
    page.line(clean(data.verdict), "bold")
    page.items(sentences.identity(report), "dim")
    page.items(_sums(data, look.exact_bytes), "dim")
    page.blank()
    _ledger(page, data)
    _outside(page, data)
    tell_causes(page, data.causes, data.rss_bytes, live_pid(report))
    page.caveats(report.caveats)
    page.blank()
    page.line(sentences.method(report.method), "dim")
    return page.text()


def _sums(data: Explanation, exact: bool) -> list[str]:
    found = [f"RSS {size(data.rss_bytes, exact)}"]
    if data.peak_rss_bytes is not None:
        found.append(f"peak {size(data.peak_rss_bytes, exact)}")
    if data.footprint_bytes is not None:
        found.append(f"footprint {size(data.footprint_bytes, exact)}")
    if data.memory_limit_bytes is not None:
        left = size(data.memory_headroom_bytes, exact)
        found.append(f"cgroup limit {size(data.memory_limit_bytes, exact)}, {left} left")
    drift = "the rows add up to RSS"
    if data.drift_bytes:
        drift = f"drift {signed_size(data.drift_bytes, exact)}"
    return [*found, drift]


# ---- the ledger ----


def _ledger(page: Page, data: Explanation) -> None:
    rows = [row for row in data.ledger if row.resident_bytes]
    unit = unit_for(data.rss_bytes, page.look.exact_bytes)
    page.line(stacked([(LETTERS[row.key], row.resident_bytes) for row in rows], page.look.width))
    page.blank()
    columns = [
        Column("", tuple(LETTERS[row.key] for row in rows), left=True),
        Column("memory", tuple(row.label for row in rows), "all rows", left=True),
        Column(
            unit.name,
            tuple(unit.cell(row.resident_bytes) for row in rows),
            unit.cell(sum(row.resident_bytes for row in rows)),
        ),
        Column("of RSS", tuple(share(row.resident_bytes, data.rss_bytes) for row in rows)),
    ]
    if any(row.swapped_bytes for row in rows):
        columns.append(Column("swapped", tuple(unit.cell(row.swapped_bytes) for row in rows)))
    if any(row.lazyfree_bytes for row in rows):
        columns.append(Column("lazyfree", tuple(unit.cell(row.lazyfree_bytes) for row in rows)))
    left = page.look.width - sum(column.width + GAP for column in columns)
    if left >= LEAST_EVIDENCE:
        told = tuple(short(row, left) for row in rows)
        columns.append(Column("what says so", told, left=True, gives_way=1))
    page.table(fit(columns, page.look.width))


def share(part: int, whole: int) -> str:
    """``part`` in percent of ``whole``; "" where there is no whole."""
    if not whole:
        return ""
    ratio = 100 * part / whole
    return f"{ratio:.0f} %" if ratio >= 0.5 else "<1 %"


def short(row: LedgerRow | CoreRow, width: int) -> str:
    """The weightiest evidence, of a path only the file's name."""
    if not row.evidence:
        return ""
    owner, colon, said = row.evidence[0].partition(": ")
    if colon and owner.startswith("/"):
        owner = owner.rpartition("/")[2]
    return clean(f"{owner}{colon}{said}", width)


def _outside(page: Page, data: Explanation) -> None:
    pressed = _pressure(data.pressure)
    if pressed:
        page.blank()
        page.line(f"Memory is short: {'; '.join(pressed)}.", "bold")
    if data.outside_rss:
        page.blank()
        page.heading("Outside RSS")
    for fact in data.outside_rss or ():
        amount = size(fact.bytes, page.look.exact_bytes)
        page.line(f"  {fact.key}: {amount}, {clean(fact.evidence)}", hanging=4)
    if data.cgroup is not None:
        page.blank()
        page.heading("Its control group")
        _cgroup(page, data.cgroup)


def _cgroup(page: Page, group: CgroupMemory) -> None:
    """What all processes of the group are charged with together."""

    def amount(number: int | None) -> str:
        return size(number, page.look.exact_bytes)

    kinds = (
        (group.anonymous_bytes, "anonymous"),
        (group.file_bytes, "page cache"),
        (group.shared_bytes, "shared memory"),
        (group.kernel_bytes, "of the kernel"),
    )
    told = ", ".join(f"{amount(number)} {kind}" for number, kind in kinds if number)
    page.line(f"  {amount(group.usage_bytes)} charged in all: {told}", hanging=4)
    if group.slab_reclaimable_bytes is not None:
        rest = amount(group.slab_unreclaimable_bytes)
        page.line(
            f"  slab: {amount(group.slab_reclaimable_bytes)} reclaimable (dentries and inodes, "
            f"mostly), {rest} not",
            hanging=4,
        )
    if group.zswapped_bytes:
        compressed = amount(group.zswap_bytes)
        page.line(
            f"  zswap: {amount(group.zswapped_bytes)} swapped out, which take {compressed} "
            "compressed in memory",
            hanging=4,
        )
    if group.reclaimable_bytes is not None:
        part = share(group.reclaimable_bytes, group.usage_bytes) or "0 %"
        page.line(
            f"  {amount(group.reclaimable_bytes)} ({part}) can be reclaimed without swapping",
            hanging=4,
        )


def _pressure(pressure: Pressure | None) -> list[str]:
    """Who waited for memory lately, and who was killed; nothing where all is well."""
    if pressure is None:
        return []
    told = [
        f"tasks {where} waited for it {100 * stalls.some_10s_ratio:.0f} % of the last 10 s and "
        f"{100 * stalls.some_60s_ratio:.0f} % of the last minute"
        for where, stalls in (
            ("on this machine", pressure.system),
            ("of its control group", pressure.cgroup),
        )
        if stalls is not None and max(stalls.some_10s_ratio, stalls.some_60s_ratio) >= LEAST_STALL
    ]
    if pressure.oom_kill_count:
        killed = plural(pressure.oom_kill_count, "process", "processes")
        told.append(f"the kernel has killed {killed} of its control group for memory")
    return told


# ---- causes ----


def live_pid(report: Report[Any]) -> int | None:
    """The process that a remedy can be applied to now; None for one that is only recorded."""
    return report.process.pid if report.process and report.method.source == "passive" else None


def tell_causes(
    page: Page, causes: Sequence[Cause], rss_bytes: int, pid: int | None = None
) -> None:
    """The causes that matter at length, the others in a line each. ``rss_bytes``: of a core, which
    does not tell it, what stands for it; ``pid``: as remedy_words."""
    if not causes:
        return
    page.blank()
    page.heading("Causes")
    told = [cause for cause in causes if matters(cause, rss_bytes)]
    for number, cause in enumerate(told, start=1):
        tell_cause(page, number, cause, pid)
    smaller = [cause for cause in causes if cause not in told]
    if smaller:
        page.line("Smaller, not worth a remedy by themselves (--json tells all of them):")
    for cause in smaller:
        page.line(f"   - {_head(cause, page.look.exact_bytes)}", hanging=5)


def matters(cause: Cause, rss_bytes: int) -> bool:
    """Is it worth a remedy, or something that has no bytes?"""
    if not cause.bytes:
        return True
    return cause.exclusive_bytes > healthy_bytes(rss_bytes)


def _head(cause: Cause, exact: bool) -> str:
    return f"{cause.title}: {amount(cause, exact)}" if cause.bytes else cause.title


def amount(cause: Cause, exact: bool = False) -> str:
    """What a cause holds, of RSS or outside of it, or at most holds where RSS is not known; and how
    much of that no other cause counts."""
    ratio = cause.share_of_rss_ratio
    told = f"{size(cause.bytes, exact)}, {_share_of_rss(cause, ratio or 0)}"
    if ratio is None:
        told = f"at most {size(cause.bytes, exact)}"
    if cause.exclusive_bytes < MOSTLY_OWN_RATIO * cause.bytes:
        told += f" ({size(cause.exclusive_bytes, exact)} not counted under another cause)"
    return told


def _share_of_rss(cause: Cause, ratio: float) -> str:
    if cause.key in OUTSIDE:
        return "outside RSS"
    return "<1 % of RSS" if 0 < ratio < 0.01 else f"{100 * ratio:.0f} % of RSS"


def tell_cause(page: Page, number: int, cause: Cause, pid: int | None) -> None:
    """One cause at length: what it holds, its evidence, its remedies. ``pid``: as remedy_words."""
    exact = page.look.exact_bytes
    page.line(f"{number}. {_head(cause, exact)}", "bold", hanging=3)
    for text in cause.evidence:
        page.line(f"   - {clean(text)}", hanging=5)
    if cause.confidence != "measured":
        page.line(f"   - {WELL_KNOWN[cause.confidence]}", hanging=5)
    for remedy in cause.remedies:
        page.line(f"   > {remedy_words(remedy, exact, pid)}", hanging=5)


def remedy_words(remedy: Remedy, exact: bool, pid: int | None = None) -> str:
    """What to do, what it gives back, what it costs. ``pid``: takes the place of PID in commands,
    so that they can be copied."""
    action = clean(remedy.action)
    if pid is not None:
        action = re.sub(r"\bPID\b", str(pid), action)
    gain = "Gain: unknown"
    if remedy.gain_bytes is not None:
        gain = f"Gain: {size(remedy.gain_bytes, exact)} ({remedy.gain_is})"
    return f"{action}. {gain}; cost: {clean(remedy.cost)}."
