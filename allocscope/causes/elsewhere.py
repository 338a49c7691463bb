"""Memory that is no fault of glibc malloc: in use, or somebody else's.

Rules: these are told only where they are a large part of RSS, because every process has a little of
each; that memory is in use is said as plainly as that it is wasted.
"""

from __future__ import annotations

from collections.abc import Sequence

from allocscope.causes.finding import Finding, heaviest, of_row, share
from allocscope.causes.remedies import advice
from allocscope.immutable import replace
from allocscope.model.ledger import CauseKey, LedgerKey, Remedy
from allocscope.model.owners import Holding
from allocscope.model.situation import Situation
from allocscope.units import plural, size

LARGE_PART_RATIO = 0.25
GLIBC = frozenset({"glibc", "unknown"})
TELLING = frozenset({"jemalloc", "mimalloc", "tcmalloc"})
OWN_STATISTICS = (
    "`allocscope ask PID --what runtime` has it print its own statistics, in a copy of the process"
)


def is_large(situation: Situation, total: int) -> bool:
    return total > LARGE_PART_RATIO * situation.rss_bytes


def large_live(situation: Situation) -> Finding | None:
    """Large chunks with mappings of their own: in use, for free() would unmap them at once."""
    total = situation.ledger.resident("glibc-mmapped")
    if not is_large(situation, total):
        return None
    mmapped = situation.heap.mmapped
    return Finding(
        key="large-live",
        title="Large chunks that are in use, each with a mapping of its own",
        bytes=total,
        takes=of_row("glibc-mmapped", total),
        confidence="measured",
        headline=f"{size(total)} are large allocations in use: the program holds them, malloc "
        "retains nothing of it",
        evidence=(
            f"{plural(mmapped.count, 'chunk')} of {size(mmapped.bytes)} in all have mappings of "
            "their own; free() gives such memory back at once",
        ),
        remedies=(
            advice(
                "find-the-owner",
                "find in the program who holds them: a profiler of allocations, or heaptrack",
                "a look at the program",
            ),
        ),
    )


def elsewhere(
    situation: Situation,
    key: CauseKey,
    row: LedgerKey,
    title: str,
    words: str,
    remedies: tuple[Remedy, ...],
    holdings: Sequence[Holding],
) -> Finding | None:
    total = sum(holding.resident_bytes or 0 for holding in holdings)
    if not is_large(situation, total):
        return None
    named = heaviest((holding.owner, holding.resident_bytes or 0) for holding in holdings)
    of_rss = "" if situation.at_most else f", {share(total, situation.rss_bytes)} of RSS"
    return Finding(
        key=key,
        title=title,
        bytes=total,
        takes=of_row(row, total),
        confidence="measured",
        headline=f"{size(total)} are {words}",
        evidence=(f"{size(total)}{of_rss}: {named}",),
        remedies=remedies,
    )


def holdings_of(situation: Situation, row: LedgerKey) -> list[Holding]:
    return [h for h in situation.holdings if h.key == row and h.resident_bytes]


def other_allocator(situation: Situation) -> Finding | None:
    serving = situation.allocator
    own = situation.ledger.resident("other-allocator")
    unexplained = situation.ledger.resident("unexplained")
    if serving is not None and serving.name not in GLIBC and unexplained > own:
        return _serving(situation, serving.name, own, unexplained)
    holdings = holdings_of(situation, "other-allocator")
    owners = sorted({holding.owner for holding in holdings})
    whose = owners[0] if len(owners) == 1 else "allocators other than glibc's"
    remedy = advice("own-statistics", "ask that allocator for its own statistics", "none")
    if not TELLING.isdisjoint(owners):
        remedy = advice(
            "own-statistics", OWN_STATISTICS, "the process stands still while it is copied"
        )
    return elsewhere(
        situation,
        "other-allocator",
        "other-allocator",
        "The heap of another allocator",
        f"in the heap of {whose}",
        (remedy,),
        holdings,
    )


def _serving(situation: Situation, name: str, own: int, unexplained: int) -> Finding | None:
    """Another allocator serves malloc, and its structures are not known: what nobody else owns is
    probably its own, which is a hint and stays unexplained in the ledger."""
    if not is_large(situation, own + unexplained):
        return None
    return Finding(
        key="other-allocator",
        title=f"The heap of {name}, which serves malloc here",
        bytes=own + unexplained,
        takes=of_row("other-allocator", own) + of_row("unexplained", unexplained),
        confidence="hint",
        headline=f"{size(own + unexplained)} are probably the heap of {name}, which serves malloc "
        "here",
        evidence=(
            f"the loader finds malloc in {name}; {size(unexplained)} of anonymous memory have no "
            "structure that is known, so they stay unexplained in the ledger",
        ),
        remedies=(advice("own-statistics", f"ask {name} for its own statistics", "none"),),
    )


def file_cache(situation: Situation) -> Finding | None:
    """Mapped files, without programs and libraries: the page cache holds them anyway."""
    programs = {h.path for h in situation.holdings if h.perms[2] == "x"}
    for row in ("file-shared", "file-private"):
        found = [h for h in holdings_of(situation, row) if h.path not in programs]
        if is_large(situation, sum(h.resident_bytes or 0 for h in found)):
            finding = elsewhere(
                situation,
                "file-cache",
                row,
                "Mapped files, which the page cache holds anyway",
                "pages of mapped files, which the kernel drops when memory is short",
                (advice("nothing", "nothing: under pressure these pages go first", "none"),),
                found,
            )
            if finding is not None:
                return replace(finding, evidence=finding.evidence + _in_cache(situation, found))
    return None


def _in_cache(situation: Situation, found: Sequence[Holding]) -> tuple[str, ...]:
    """What the page cache holds of these files, and what has to be written before it goes."""
    paths = {holding.path for holding in found}
    files = [file for file in situation.cached if file.path in paths]
    told = []
    if files:
        cached, dirty = sum(f.cached_bytes for f in files), sum(f.dirty_bytes for f in files)
        written = f"{size(dirty)} of it after being written to disk" if dirty else "all of it clean"
        told.append(
            f"the page cache holds {size(cached)} of {plural(len(files), 'such file')}, mapped or "
            f"not; the kernel can drop it, {written}"
        )
    indexes = {holding.mapping_index for holding in found}
    locked = sum(situation.smaps[index].locked_bytes for index in indexes)
    if locked:
        told.append(f"{size(locked)} are locked (mlock) and stay")
    return tuple(told)


def shared_memory(situation: Situation) -> Finding | None:
    finding = elsewhere(
        situation,
        "shared-memory",
        "shared-memory",
        "Shared memory, which RSS counts whole in every process that maps it",
        "shared memory, counted whole in every process that has it mapped",
        (advice("count-pss", "compare PSS (`allocscope footprint`), which shares it out", "none"),),
        holdings_of(situation, "shared-memory"),
    )
    fair = None if situation.rollup is None else situation.rollup.pss_shmem_bytes
    if finding is None or fair is None:
        return finding
    told = f"shared out among all who map it, the part of this process is {size(fair)} (Pss_Shmem)"
    return replace(finding, evidence=(*finding.evidence, told))
