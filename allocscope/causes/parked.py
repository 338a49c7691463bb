"""Free chunks that are parked where only one thread, or nobody, merges them: tcaches, fastbins."""

from __future__ import annotations

from allocscope.causes import remedies
from allocscope.causes.finding import Finding, of_arenas
from allocscope.causes.remedies import advice
from allocscope.model.heap import Setting
from allocscope.model.situation import Situation
from allocscope.units import plural, size

OLD_TCACHE_COUNT = 7
"""The default from glibc 2.26 to 2.42; 16 from 2.43 on."""


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
