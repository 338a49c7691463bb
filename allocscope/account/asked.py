"""glibc's own figures as the answer of ``arenas``, where nothing else is known.

Source: ``__malloc_info`` (glibc malloc/malloc.c), its known inaccuracies taken off
(:mod:`allocscope.account.corrections`). Rule: what it does not print is None.
"""

from __future__ import annotations

from allocscope.account.corrections import corrected
from allocscope.model.asked import AskedArena, AskedData
from allocscope.model.glibc_says import FreeOfArena, GlibcSays, InfoHeap, MallocInfo


def asked(info: MallocInfo, says: GlibcSays, rss_bytes: int) -> AskedData:
    """The arenas that ``info`` tells of. BadInput when it contradicts itself."""
    pairs = zip(info.heaps, corrected(info), strict=True)
    return AskedData(
        rss_bytes=rss_bytes,
        arenas=tuple(_arena(heap, free) for heap, free in pairs),
        mmap_count=info.mmap_count,
        mmap_bytes=info.mmap_bytes,
        glibc_says=says,
    )


def _arena(heap: InfoHeap, free: FreeOfArena) -> AskedArena:
    in_use = None
    if free.top_bytes is not None:
        in_use = heap.system_bytes - free.bin_bytes - (free.fast_bytes or 0) - free.top_bytes
    return AskedArena(
        index=heap.index,
        system_bytes=heap.system_bytes,
        max_system_bytes=heap.max_system_bytes,
        in_use_bytes=in_use,
        fastbin_bytes=free.fast_bytes,
        fastbin_count=free.fast_count,
        bin_bytes=free.bin_bytes,
        bin_count=free.bin_count,
        top_bytes=free.top_bytes,
        heap_count=heap.subheap_count,
    )
