"""What the kernel does with pages, and what RSS makes of it: huge pages, MADV_FREE, copy-on-write,
swap."""

from __future__ import annotations

from allocscope.causes.finding import MOST_NAMED, Cell, Finding, heaviest, share, up_to
from allocscope.causes.remedies import advice
from allocscope.model.ledger import LedgerKey, Remedy
from allocscope.model.situation import HugeUse, Situation
from allocscope.units import plural, size

HUGE_PAGE_BYTES = 2 << 20
LARGE_PART_RATIO = 0.25


def lazyfree_held(situation: Situation) -> Finding | None:
    """Pages marked with MADV_FREE: the kernel takes them when it needs them, RSS counts them."""
    total = sum(entry.lazyfree_bytes for entry in situation.smaps)
    if not total:
        return None
    marked = [entry for entry in situation.smaps if entry.lazyfree_bytes]
    dirty = sum(entry.private_dirty_bytes for entry in marked)
    return Finding(
        key="lazyfree-held",
        title="Pages that were given back with MADV_FREE and still count",
        bytes=total,
        takes=_lazyfree_cells(situation),
        confidence="measured",
        headline=f"{size(total)} were given back with MADV_FREE and count until the kernel needs "
        "them",
        evidence=(
            f"the kernel counts {size(total)} LazyFree in {plural(len(marked), 'mapping')}, beside "
            f"{size(dirty)} dirty there",
            "glibc malloc never uses MADV_FREE: another allocator, a runtime or the program does",
        ),
        remedies=(
            Remedy(
                "reclaim",
                "`allocscope lazyfree PID --reclaim` has the kernel take them now; under pressure "
                "it does so by itself",
                total,
                "forecast",
                "pages that the program writes to again must be zeroed again",
            ),
        ),
    )


def _lazyfree_cells(situation: Situation) -> tuple[tuple[Cell, int], ...]:
    """By row. In a mapping with several owners none of glibc's: it marks nothing."""
    sums: dict[LedgerKey, int] = {}
    left = {i: entry.lazyfree_bytes for i, entry in enumerate(situation.smaps)}
    for holding in situation.holdings:
        here = min(left[holding.mapping_index], holding.resident_bytes or 0)
        row = holding.row
        if here and row is not None and row != "glibc-mmapped":
            left[holding.mapping_index] -= here
            sums[row] = sums.get(row, 0) + here
    return tuple(((key, None), taken) for key, taken in sums.items())


def thp_inflation(situation: Situation) -> Finding | None:
    """Small pages of zeros within huge ones: the kernel put them there with a neighbour that was
    touched, and nobody has written to them since."""
    huge = situation.huge
    total = sum(size for _, size in huge.zero_bytes) if huge else 0
    if huge is None or not total:
        return None
    owners = ((situation.holdings[number].owner, zeros) for number, zeros in huge.zero_bytes)
    sampled = huge.looked_at_bytes < huge.huge_bytes
    sample = f", judged by {size(huge.looked_at_bytes)} of it" if sampled else ""
    return Finding(
        key="thp-inflation",
        title="Transparent huge pages that hold more than was written",
        bytes=total,
        takes=_zero_cells(situation, huge),
        confidence="inferred",
        headline=f"{size(total)} are nothing but zeros in transparent huge pages, which take 2 MiB "
        "where a byte is touched",
        evidence=(
            f"of {size(huge.huge_bytes)} in huge pages of {size(HUGE_PAGE_BYTES)} {size(total)} "
            f"are small pages of nothing but zeros{sample}: most likely never written",
            f"these lie in: {heaviest(owners)}",
        ),
        remedies=(
            Remedy(
                "no-thp",
                "prctl(PR_SET_THP_DISABLE), or madvise instead of always in "
                "/sys/kernel/mm/transparent_hugepage/enabled; glibc.malloc.hugetlb=0; where "
                "khugepaged makes them, 0 in its max_ptes_none",
                total,
                "forecast",
                "more page faults and TLB misses; a restart",
            ),
        ),
    )


def _zero_cells(situation: Situation, huge: HugeUse) -> tuple[tuple[Cell, int], ...]:
    """In an arena they are rather free than live; of which thread arena is not asked."""
    cells: list[tuple[Cell, int]] = []
    in_heaps = {True: 0, False: 0}
    for number, zeros in huge.zero_bytes:
        holding = situation.holdings[number]
        if holding.row is None:
            in_heaps[holding.key == "glibc-main-heap"] += zeros
        else:
            cells.append(((holding.row, None), zeros))
    for main, zeros in in_heaps.items():
        arenas = [arena for arena in situation.residence if (arena.index == 0) == main]
        wanted: list[tuple[Cell, int]] = []
        for arena in arenas:
            wanted.append((("glibc-free-whole-pages", arena.index), arena.whole_pages_bytes))
            wanted.append((("glibc-top", arena.index), arena.top_bytes))
        wanted += [(("glibc-live", arena.index), arena.live_bytes) for arena in arenas]
        cells += up_to(wanted, zeros)
    return tuple(cells)


def fork_sharing(situation: Situation) -> Finding | None:
    """Anonymous pages that relatives share until one of them writes: RSS counts them in each."""
    rollup = situation.rollup
    if rollup is None or rollup.pss_anon_bytes is None or rollup.anonymous_bytes is None:
        return None
    shared = rollup.anonymous_bytes - rollup.pss_anon_bytes
    if shared <= LARGE_PART_RATIO * situation.rss_bytes:
        return None
    rows: tuple[LedgerKey, ...] = ("program-data", "runtime-heap", "unexplained")
    takes: list[tuple[Cell, int]] = [
        (("glibc-live", arena.index), arena.live_bytes) for arena in situation.residence
    ]
    takes += [((row, None), situation.ledger.resident(row)) for row in rows]
    return Finding(
        key="fork-sharing",
        title="Pages shared with relatives since fork, counted in each of them",
        bytes=shared,
        takes=up_to(takes, shared),
        confidence="measured",
        headline=f"{size(shared)} are shared copy-on-write with relatives and counted in each",
        evidence=(
            f"of {size(rollup.anonymous_bytes)} anonymous memory its fair share (Pss_Anon) is "
            f"{size(rollup.pss_anon_bytes)}",
        ),
        remedies=(advice("count-pss", "sum PSS, not RSS, over the family of processes", "none"),),
    )


def swapped_out(situation: Situation) -> Finding | None:
    """Memory in swap: RSS fell, the program needs it all the same."""
    total = sum(entry.swap_bytes for entry in situation.smaps)
    if not total:
        return None
    return Finding(
        key="swapped-out",
        title="Memory in swap, which RSS does not show",
        bytes=total,
        takes=(),
        confidence="measured",
        headline=f"{size(total)} more are in swap",
        evidence=(
            f"{size(total)} are swapped out, beside {size(situation.rss_bytes)} resident "
            f"({share(total, total + situation.rss_bytes)} of both)",
            *_whose(situation),
            *_where_swapped(situation),
        ),
        remedies=(
            advice("footprint", "watch the footprint, not RSS: `allocscope footprint PID`", "none"),
        ),
        outside_bytes=total,
    )


def _whose(situation: Situation) -> tuple[str, ...]:
    found = [(holding.owner, holding.swapped_bytes or 0) for holding in situation.holdings]
    told = heaviest(found)
    return (f"swapped out are: {told}",) if told else ()


def _where_swapped(situation: Situation) -> tuple[str, ...]:
    """Swap that is memory itself frees less than it takes from RSS."""
    found = situation.swapping
    if found is None or not found.areas:
        return ()
    told = ", ".join(
        f"{area.path} (zram: compressed, in memory)" if area.compressed else area.path
        for area in found.areas[:MOST_NAMED]
    )
    more = len(found.areas) - MOST_NAMED
    told += f" and {more} more" if more > 0 else ""
    if found.zswap:
        told += "; zswap is on, so that part of it may lie compressed in memory"
    return (f"this machine swaps to {told}",)
