"""Where glibc keeps things, on 64-bit, from 2.31 to 2.44. Offsets in bytes.

From the declarations in malloc/malloc.c and malloc/arena.c of those releases. What changed: 2.32
mangles links (safe-linking); 2.35 gave struct _heap_info a page size (and its arena thereby
another place) and malloc_par three members; 2.42 gave the tcache twelve more bins; 2.43 dropped
fastbins, changed the header of mapped chunks, and added a member to malloc_par, which 2.44 took
back elsewhere.
"""

from __future__ import annotations

import dataclasses

BINS = 127
FASTBINS = 10
HEAP_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Layout:
    """Offsets inside malloc_state, _heap_info, tcache_perthread_struct and malloc_par."""

    mangled: bool
    heap_info_bytes: int
    state_bytes: int
    fastbins: int | None
    top: int
    bins: int
    next: int
    system_mem: int
    tcache_chunks: tuple[int, ...]
    tcache_entries: int
    tcache_bins: int
    n_mmaps: int
    mmapped_mem: int
    sbrk_base: int
    mapping_extra: int


_STATE_TO_2_42 = {
    "state_bytes": 2200,
    "fastbins": 16,
    "top": 96,
    "bins": 112,
    "next": 2160,
    "system_mem": 2184,
    "mapping_extra": 0,
}
_STATE_FROM_2_43 = {
    "state_bytes": 2112,
    "fastbins": None,
    "top": 8,
    "bins": 24,
    "next": 2072,
    "system_mem": 2096,
    "mapping_extra": 16,
}
_TCACHE_64 = {"tcache_chunks": (0x290, 0x2A0), "tcache_entries": 128, "tcache_bins": 64}
_TCACHE_76 = {"tcache_chunks": (0x300, 0x310), "tcache_entries": 152, "tcache_bins": 76}
_PAR_TO_2_34 = {"n_mmaps": 40, "mmapped_mem": 56, "sbrk_base": 72}
_PAR_TO_2_42 = {"n_mmaps": 60, "mmapped_mem": 80, "sbrk_base": 96}
_PAR_FROM_2_43 = {"n_mmaps": 68, "mmapped_mem": 88, "sbrk_base": 104}


def layout_for(minor: int) -> Layout:
    """The layout of glibc 2.``minor``. KeyError outside 2.31 to 2.44."""
    if not 31 <= minor <= 44:
        raise KeyError(f"the oracle does not know glibc 2.{minor}")
    state = _STATE_FROM_2_43 if minor >= 43 else _STATE_TO_2_42
    tcache = _TCACHE_76 if minor >= 42 else _TCACHE_64
    par = _PAR_FROM_2_43 if minor >= 43 else _PAR_TO_2_42 if minor >= 35 else _PAR_TO_2_34
    parts: dict[str, object] = {**state, **tcache, **par}
    parts["mangled"] = minor >= 32
    parts["heap_info_bytes"] = 48 if minor >= 35 else 32
    return Layout(**parts)  # type: ignore[arg-type]
