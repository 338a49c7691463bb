"""Where each release of glibc keeps what (64-bit), for the made-up mallocs: written down a second
time, so that a slip in allocscope's own table shows. Source: glibc malloc/malloc.c,
malloc/arena.c."""

from __future__ import annotations

import dataclasses
from typing import Any

STATE_TO_2_42 = {
    "size": 2200,
    "fastbins": 16,
    "top": 96,
    "bins": 112,
    "next": 2160,
    "attached_threads": 2176,
    "system_mem": 2184,
    "max_system_mem": 2192,
}
STATE_TO_2_26 = {
    "size": 2192,
    "fastbins": 8,
    "top": 88,
    "bins": 104,
    "next": 2152,
    "attached_threads": 2168,
    "system_mem": 2176,
    "max_system_mem": 2184,
}
STATE_TO_2_22 = {
    "size": 2184,
    "fastbins": 8,
    "top": 88,
    "bins": 104,
    "next": 2152,
    "system_mem": 2168,
    "max_system_mem": 2176,
}
STATE_FROM_2_43 = {
    "size": 2112,
    "top": 8,
    "bins": 24,
    "next": 2072,
    "attached_threads": 2088,
    "system_mem": 2096,
    "max_system_mem": 2104,
}

PAR_WORDS = ("trim_threshold", "top_pad", "mmap_threshold", "arena_test", "arena_max")
PAR_HUGE = ("thp_pagesize", "hp_pagesize", "hp_flags:int")
PAR_COUNTERS = ("n_mmaps:int", "n_mmaps_max:int", "max_n_mmaps:int", "no_dyn_threshold:int")
PAR_SUMS = ("mmapped_mem", "max_mmapped_mem", "sbrk_base")
PAR_TCACHE = ("tcache_bins", "tcache_max_bytes", "tcache_count")
UNSORTED = ("tcache_unsorted_limit",)
PAR_TO_2_25 = PAR_WORDS + PAR_COUNTERS + PAR_SUMS
PAR_TO_2_23 = (*PAR_WORDS, *PAR_COUNTERS, *PAR_SUMS[:2], "max_total_mem", "sbrk_base")
PAR_TO_2_34 = PAR_WORDS + PAR_COUNTERS + PAR_SUMS + PAR_TCACHE + UNSORTED
PAR_TO_2_42 = PAR_WORDS + PAR_HUGE + PAR_COUNTERS + PAR_SUMS + PAR_TCACHE + UNSORTED
PAR_2_44 = (*PAR_WORDS, "thp_mode:int", *PAR_HUGE, *PAR_COUNTERS, *PAR_SUMS, *PAR_TCACHE)
PAR_2_43 = PAR_2_44 + UNSORTED

PAR_START = {
    "trim_threshold": 0x20000,
    "top_pad": 0x20000,
    "mmap_threshold": 0x20000,
    "arena_test": 8,
    "n_mmaps_max": 65536,
}


@dataclasses.dataclass(frozen=True)
class Release:
    """What differs between releases. ``tcache_bins`` is 0 before there was a tcache; ``key``: the
    second word of what is parked in one, 0 for the tcache's address, None where nothing is written
    there."""

    state: dict[str, int]
    par: tuple[str, ...]
    heap_info_bytes: int
    mangled: bool
    tcache_bins: int
    tcache_chunk: int
    counter_bytes: int
    key: int | None
    fill: int
    counts_free_slots: bool
    mmap_size_is_usable: bool


def _par_fields(minor: int) -> tuple[str, ...]:
    if minor >= 43:
        return PAR_2_44 if minor >= 44 else PAR_2_43
    if minor >= 26:
        return PAR_TO_2_42 if minor >= 35 else PAR_TO_2_34
    return PAR_TO_2_25 if minor >= 24 else PAR_TO_2_23


def _state(minor: int) -> dict[str, int]:
    if minor >= 27:
        return STATE_FROM_2_43 if minor >= 43 else STATE_TO_2_42
    return STATE_TO_2_26 if minor >= 23 else STATE_TO_2_22


def _tcache(minor: int) -> dict[str, Any]:
    if minor < 26:
        return {"tcache_bins": 0, "tcache_chunk": 0, "counter_bytes": 0, "key": None}
    return {
        "tcache_bins": 76 if minor >= 42 else 64,
        "tcache_chunk": 0x300 if minor >= 42 else 0x290 if minor >= 30 else 0x250,
        "counter_bytes": 2 if minor >= 30 else 1,
        "key": 0x9E3779B97F4A7C15 if minor >= 34 else 0 if minor >= 29 else None,
    }


def _release(minor: int) -> Release:
    return Release(
        state=_state(minor),
        par=_par_fields(minor),
        heap_info_bytes=48 if minor >= 35 else 32,
        mangled=minor >= 32,
        **_tcache(minor),
        fill=16 if minor >= 43 else 7,
        counts_free_slots=minor >= 42,
        mmap_size_is_usable=minor >= 43,
    )


MINORS = (17, 22, 23, 24, 26, 27, 29, 30, 31, 32, 34, 35, 36, 41, 42, 43, 44)
RELEASES = {f"2.{minor}": _release(minor) for minor in MINORS}
