"""The answer of ``arenas`` where no known layout fits: what glibc itself says, and nothing else."""

from __future__ import annotations

from allocscope.immutable import immutable
from allocscope.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from allocscope.model.glibc_says import GlibcSays


@immutable
class AskedArena:
    """One arena, in the order and with the index that glibc gives it. ``in_use_bytes``: live
    chunks, thread caches and glibc's own structures together. None: that glibc does not print
    it."""

    index: int
    system_bytes: int
    max_system_bytes: int
    in_use_bytes: int | None
    fastbin_bytes: int | None
    fastbin_count: int | None
    bin_bytes: int
    bin_count: int
    top_bytes: int | None
    heap_count: int | None


@immutable
class AskedData:
    """All arenas, and chunks with mappings of their own as glibc counts them. ``glibc_says`` holds
    what it printed; there is no reading that it could agree with."""

    rss_bytes: int
    arenas: tuple[AskedArena, ...]
    mmap_count: int | None
    mmap_bytes: int | None
    glibc_says: GlibcSays
