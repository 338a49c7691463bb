"""What does for another allocator what malloc_trim does for glibc's.

Rules: only what its own documentation or header names; an allocator that is not listed has no
advice rather than a guessed one.
"""

from __future__ import annotations

_INSTEAD = {
    "jemalloc": (
        'mallctl("arena.4096.purge", …) gives back what jemalloc keeps free (4096: all arenas); '
        "MALLOC_CONF=background_thread:true,dirty_decay_ms:N lets it do so by itself."
    ),
    "tcmalloc": (
        "MallocExtension::instance()->ReleaseFreeMemory() does it in gperftools, "
        "MallocExtension::ReleaseMemoryToSystem(N) in Google's; TCMALLOC_RELEASE_RATE makes the "
        "former do so by itself."
    ),
    "mimalloc": (
        "mi_collect(true) gives back what mimalloc keeps free for the calling thread and for ended "
        "ones; MIMALLOC_PURGE_DELAY=0 makes it do so at once."
    ),
    "scudo": "mallopt(M_PURGE_ALL, 0) gives back what scudo keeps free.",
    "tbbmalloc": (
        "scalable_allocation_command(TBBMALLOC_CLEAN_ALL_BUFFERS, 0) gives back what tbbmalloc "
        "keeps free."
    ),
    "AddressSanitizer": (
        "__sanitizer_purge_allocator() gives back what its quarantine and its allocator keep free."
    ),
    "musl": (
        "musl has no malloc_trim and no call like it: its malloc unmaps a group of slots when the "
        "last of them is freed. Preloading or linking another allocator is the way to control it."
    ),
    "go": (
        "runtime/debug.FreeOSMemory() gives back what Go's runtime keeps free; GOMEMLIMIT and GOGC "
        "set how much that is."
    ),
}


def instead_of_trim(allocator: str) -> str | None:
    """One sentence or two on how ``allocator`` (a name of model.libc.Allocator, or a kind of
    LibcImage) is made to give memory back; None where that is not known."""
    return _INSTEAD.get(allocator)
