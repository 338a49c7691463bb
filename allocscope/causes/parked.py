"""Free chunks that are parked where only one thread, or nobody, merges them: tcaches, fastbins; and
ends of heaps that such chunks keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from allocscope.account.parked_ends import OLD_TCACHE_COUNT
from allocscope.causes import remedies
from allocscope.causes.finding import Cell, Finding, of_arenas, up_to
from allocscope.causes.remedies import advice
from allocscope.model.heap import ParkedEnd, Setting
from allocscope.model.ledger import Remedy
from allocscope.model.situation import Situation
from allocscope.units import plural, size

ENOUGH_RATIO = 0.9
"""A smaller cache that gives back so much of it is enough."""
MOST_THREADS = 3


def parked_top(situation: Situation) -> Finding | None:
    """Nothing live lies at the end of a heap, and yet it is kept: by parked chunks."""
    ends = situation.heap.parked_ends
    total = sum(end.held_bytes for end in ends)
    if not total:
        return None
    setting = situation.heap.settings.tcache_count
    fill, gain = enough(ends)
    what = what_keeps(ends)
    return Finding(
        key="parked-top",
        title="Thread caches keep the ends of heaps from shrinking",
        bytes=total,
        takes=tuple(taken for end in ends for taken in _takes(situation, end)),
        confidence="inferred",
        headline=f"{size(total)} are free at the ends of heaps, kept by {what}",
        evidence=(
            f"between the last live chunk and top of {plural(len(ends), 'heap')} nothing is in use "
            f"but {what}; the highest is at {ends[0].chunk:#x}",
            f"whose they are: {_threads(situation, ends)}",
            f"tcache_count is {setting.value} ({setting.origin}); without caches free() would have "
            f"given back {size(total)}",
            *_with_the_old_default(setting, ends),
        ),
        remedies=(
            remedies.trim(situation),
            remedies.smaller_tcache(fill, gain),
            *_early(ends),
        ),
    )


def what_keeps(ends: Sequence[ParkedEnd]) -> str:
    """What keeps them, in words."""
    parked = sum(end.parked_count for end in ends)
    own = sum(end.tcache_struct_count for end in ends)
    told = []
    if parked:
        told.append(
            f"{plural(parked, 'chunk')} of {size(sum(end.parked_bytes for end in ends))} parked in "
            "thread caches"
        )
    if own:
        told.append(f"{plural(own, 'thread cache')} that {'lie' if own > 1 else 'lies'} there")
    return " and ".join(told)


def _early(ends: Sequence[ParkedEnd]) -> tuple[Remedy, ...]:
    """Where a cache itself is in the way."""
    if not any(end.tcache_struct_count for end in ends):
        return ()
    return (
        advice(
            "free-early",
            "free(malloc(1)) as the first thing in each thread: from glibc 2.43 on its cache is "
            "made at its first free, and then lies at the beginning of the heap",
            "a change of the program; parked chunks stay where they are",
        ),
    )


def _gain(ends: Sequence[ParkedEnd], tcache_count: int) -> int:
    return sum(
        gain.released_bytes
        for end in ends
        for gain in end.gains
        if gain.tcache_count == tcache_count
    )


def enough(ends: Sequence[ParkedEnd]) -> tuple[int, int]:
    """The largest tcache_count that gives back nearly all of it, and how much that is."""
    counts = sorted({gain.tcache_count for end in ends for gain in end.gains}, reverse=True)
    gains = [(count, _gain(ends, count)) for count in counts]
    return next(pair for pair in gains if pair[1] >= ENOUGH_RATIO * _gain(ends, 0))


def _takes(situation: Situation, end: ParkedEnd) -> tuple[tuple[Cell, int], ...]:
    arena = next(arena for arena in situation.residence if arena.index == end.arena_index)
    cells: tuple[tuple[Cell, int], ...] = (
        (("glibc-free-whole-pages", arena.index), arena.whole_pages_bytes),
        (("glibc-top", arena.index), arena.top_bytes),
        (("glibc-fastbin", arena.index), arena.fastbin_bytes),
        (("glibc-free-shared-pages", arena.index), arena.shared_pages_bytes),
        (("glibc-tcache", arena.index), arena.tcache_bytes),
    )
    return up_to(cells, end.held_bytes)


def _threads(situation: Situation, ends: Sequence[ParkedEnd]) -> str:
    names = {thread.tid: thread.name for thread in situation.heap.threads}
    counts: dict[int, int] = {}
    own: set[int] = set()
    for by in (by for end in ends for by in end.threads):
        counts[by.tid] = counts.get(by.tid, 0) + by.chunk_count
        own |= {by.tid} if by.tcache_itself else set()
    most = sorted(counts, key=lambda tid: (-counts[tid], tid))
    told = []
    for tid in most[:MOST_THREADS]:
        parts = [plural(counts[tid], "chunk")] if counts[tid] else []
        parts += ["its cache"] if tid in own else []
        told.append(f"{_name(tid, names)}: {' and '.join(parts)}")
    left = len(most) - MOST_THREADS
    return ", ".join(told) + (f", and {plural(left, 'more thread')}" if left > 0 else "")


def _name(tid: int, names: Mapping[int, str]) -> str:
    """Caches that were found by their shape alone have a negative number."""
    if tid < 0:
        return "a thread that is not known"
    return f"thread {tid} ({names[tid]})" if tid in names else f"thread {tid}"


def _with_the_old_default(setting: Setting, ends: Sequence[ParkedEnd]) -> tuple[str, ...]:
    if not isinstance(setting.value, int) or setting.value <= OLD_TCACHE_COUNT:
        return ()
    gain = _gain(ends, OLD_TCACHE_COUNT)
    return (
        f"up to glibc 2.42 the default was {OLD_TCACHE_COUNT}: with that free() would have given "
        f"back {size(gain) if gain else 'nothing of it'}",
    )


def tcache_hoard(situation: Situation) -> Finding | None:
    takes = of_arenas(situation, "glibc-tcache", lambda arena: arena.tcache_bytes)
    total = sum(taken for _, taken in takes)
    if not total:
        return None
    heap = situation.heap
    caches = [thread for thread in heap.threads if thread.tcache_count]
    fullest = max((thread.tcache_bytes for thread in caches), default=0)
    sound = fullest <= heap.totals.tcache_bytes  # lists that change while they are read may not be
    most = f", the fullest {size(fullest)}" if sound else ""
    return Finding(
        key="tcache-hoard",
        title="Free chunks parked in thread caches",
        bytes=total,
        takes=takes,
        confidence="measured",
        headline=f"{size(total)} are free chunks parked in {plural(len(caches), 'thread cache')}",
        evidence=(
            f"{plural(len(caches), 'thread')} hold {plural(heap.totals.tcache_count, 'chunk')} of "
            f"{size(heap.totals.tcache_bytes)} in their caches{most}",
            f"tcache_count is {heap.settings.tcache_count.value} "
            f"({heap.settings.tcache_count.origin}); glibc counts these chunks as in use, and "
            "malloc_trim does not reach them",
            *_since_the_default_grew(heap.settings.tcache_count, total),
        ),
        remedies=(
            remedies.no_tcache(total),
            advice(
                "fewer-threads",
                "let threads that have nothing to do end: a thread's cache is freed with it",
                "a change of the program",
            ),
        ),
    )


def _since_the_default_grew(setting: Setting, total: int) -> tuple[str, ...]:
    """Caches that are full hold as many chunks as they may, so fewer in proportion."""
    if not isinstance(setting.value, int) or setting.value <= OLD_TCACHE_COUNT:
        return ()
    fewer = total - total * OLD_TCACHE_COUNT // setting.value
    return (
        f"up to glibc 2.42 the default was {OLD_TCACHE_COUNT}: with "
        f"glibc.malloc.tcache_count={OLD_TCACHE_COUNT} full caches would hold {size(fewer)} less",
    )


def fastbin_hoard(situation: Situation) -> Finding | None:
    takes = of_arenas(situation, "glibc-fastbin", lambda arena: arena.fastbin_bytes)
    total = sum(taken for _, taken in takes)
    if not total:
        return None
    totals = situation.heap.totals
    tops = sum(arena.top_trimmable_bytes for arena in situation.residence)
    binned = sum(a.whole_pages_bytes - a.locked_pages_bytes for a in situation.residence)
    gain = max(0, totals.trimmable_bytes - tops - binned)
    return Finding(
        key="fastbin-hoard",
        title="Small free chunks in fastbins, which nobody has merged yet",
        bytes=total,
        takes=takes,
        confidence="measured",
        headline=f"{size(total)} are small free chunks in fastbins that nothing has merged",
        evidence=(
            f"{plural(totals.fastbin_count, 'chunk')} of {size(totals.fastbin_bytes)} lie in "
            "fastbins; only a large malloc or free, or malloc_trim, merges them",
            f"merged, {size(gain)} of them would be whole pages that malloc_trim releases",
        ),
        remedies=(
            remedies.trim(situation),
            advice(
                "no-fastbins",
                "mallopt(M_MXFAST, 0) or GLIBC_TUNABLES=glibc.malloc.mxfast=0: chunks are merged "
                "when they are freed",
                "free of small chunks becomes slower",
            ),
        ),
    )
