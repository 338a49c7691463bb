"""``mp_`` (struct malloc_par): finding it without a symbol, and its values.

It is found by what must be true of it: counters and their maxima agree, huge-page fields are powers
of two, the tcache fields have their fixed sizes, and sbrk_base lies in the main heap. Several
candidates are told apart by how many fields hold their static start values; equal scores at
different places count as not found. At one place several layouts may fit a process that shows too
little. Where nothing is found, threads may stand between two counters (``sysmalloc_mmap`` and
``munmap_chunk`` change them one after the other), and they need agree only nearly.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from allocscope.glibc.layouts import ParLayout
from allocscope.immutable import immutable

DEFAULT_THRESHOLD = 0x20000
DEFAULT_MMAP_MAX = 65536
SMALL_TCACHE_BINS = 64
MAX_TCACHE_BINS = 76
MAX_TCACHE_COUNT = 65535
MAX_TCACHE_BYTES = 4 << 20
ENOUGH_DEFAULTS = 4
MOST_IN_MOTION = 1024
"""More threads than this are not between two counters at one moment."""


@immutable
class ParValues:
    """The values of ``mp_``; sizes in bytes. The tcache's are None where the release has none."""

    address: int
    layout: ParLayout
    trim_threshold: int
    top_pad: int
    mmap_threshold: int
    arena_test: int
    arena_max: int
    thp_pagesize: int
    hp_pagesize: int
    n_mmaps: int
    n_mmaps_max: int
    max_n_mmaps: int
    no_dyn_threshold: int
    mmapped_mem: int
    max_mmapped_mem: int
    sbrk_base: int
    tcache_bins: int | None
    tcache_max_bytes: int | None
    tcache_count: int | None


def parse_par(address: int, data: bytes, layout: ParLayout, at: int = 0) -> ParValues:
    """``mp_`` from its bytes at ``data[at:]``."""

    size = layout.abi.word_bytes

    def word(offset: int) -> int:
        return layout.abi.word(data, at + offset)

    def optional(offset: int | None) -> int | None:
        return None if offset is None else word(offset)

    def number(offset: int) -> int:
        return int(struct.unpack_from("<i", data, at + offset)[0])

    return ParValues(
        address=address,
        layout=layout,
        trim_threshold=word(0),
        top_pad=word(size),
        mmap_threshold=word(2 * size),
        arena_test=word(3 * size),
        arena_max=word(4 * size),
        thp_pagesize=optional(layout.thp_pagesize) or 0,
        hp_pagesize=optional(layout.hp_pagesize) or 0,
        n_mmaps=number(layout.n_mmaps),
        n_mmaps_max=number(layout.n_mmaps_max),
        max_n_mmaps=number(layout.max_n_mmaps),
        no_dyn_threshold=number(layout.no_dyn_threshold),
        mmapped_mem=word(layout.mmapped_mem),
        max_mmapped_mem=word(layout.max_mmapped_mem),
        sbrk_base=word(layout.sbrk_base),
        tcache_bins=optional(layout.tcache_bins),
        tcache_max_bytes=optional(layout.tcache_max_bytes),
        tcache_count=optional(layout.tcache_count),
    )


def _power_of_two_or_zero(value: int) -> bool:
    return value & (value - 1) == 0


def _within(value: int | None, low: int, high: int) -> bool:
    """Also true of a member that the layout does not have."""
    return value is None or low <= value <= high


def _counter_faults(par: ParValues, in_motion: int) -> Iterator[str]:
    """Can these be the counts and bytes of mmapped chunks, while at most ``in_motion`` threads
    change them? The counts are changed first."""
    if not 0 <= par.n_mmaps <= par.max_n_mmaps + in_motion:
        yield "n_mmaps"
    if max(par.mmapped_mem, par.max_mmapped_mem) >= 1 << 47 or (
        (par.mmapped_mem > par.max_mmapped_mem and not in_motion)
        # from 2.43 each realloc of a mapping adds a header for ever
        or par.mmapped_mem % par.layout.abi.header_bytes
        or par.mmapped_mem < (par.n_mmaps - in_motion) * 4096
    ):
        yield "mmapped_mem"
    if (par.max_n_mmaps <= 0 and par.max_mmapped_mem) or (
        par.max_n_mmaps > in_motion and par.max_mmapped_mem <= 0
    ):
        yield "max_mmapped_mem"


def par_faults(
    par: ParValues, heap_spans: Sequence[tuple[int, int]], in_motion: int = 0
) -> Iterator[str]:
    """The members that cannot be those of ``mp_``. ``heap_spans``: where sbrk_base may lie when it
    is not null; ``in_motion``: how many threads may be between two counters."""
    yield from _counter_faults(par, in_motion)
    if par.n_mmaps_max < 0:
        yield "n_mmaps_max"
    if par.no_dyn_threshold not in (0, 1):
        yield "no_dyn_threshold"
    if not _power_of_two_or_zero(par.thp_pagesize):
        yield "thp_pagesize"
    if not _power_of_two_or_zero(par.hp_pagesize):
        yield "hp_pagesize"
    if not 0 < par.arena_test < 1 << 24:
        yield "arena_test"
    if par.arena_max >= 1 << 24:
        yield "arena_max"
    if not _within(par.tcache_bins, 1, MAX_TCACHE_BINS):
        yield "tcache_bins"
    if not _within(par.tcache_max_bytes, 1, MAX_TCACHE_BYTES + 16):
        yield "tcache_max_bytes"
    if not _within(par.tcache_count, 0, MAX_TCACHE_COUNT):
        yield "tcache_count"
    if par.sbrk_base and not any(start <= par.sbrk_base < end for start, end in heap_spans):
        yield "sbrk_base"


def defaults_held(par: ParValues) -> int:
    """How many fields hold their static start value. A tcache's fields that are there and plausible
    count as well: a layout without them says less about the same memory."""
    return (
        (par.trim_threshold == DEFAULT_THRESHOLD)
        + (par.top_pad == DEFAULT_THRESHOLD)
        + (par.mmap_threshold == DEFAULT_THRESHOLD)
        + (par.arena_test == par.layout.abi.arenas_per_cpu)
        + (par.n_mmaps_max == DEFAULT_MMAP_MAX)
        + (par.tcache_bins == SMALL_TCACHE_BINS)
        + (par.tcache_bins is not None)
        + 2 * (par.sbrk_base != 0)
    )


def find_par(
    areas: Sequence[tuple[int, bytes]],
    layouts: Sequence[ParLayout],
    heap_spans: Sequence[tuple[int, int]],
) -> list[ParValues]:
    """``mp_`` within ``areas`` (start address and bytes of the library's data), as each of the
    ``layouts`` reads it that fit best; empty when it is not found for certain."""
    still = _find(areas, layouts, heap_spans, 0)
    return still or _find(areas, layouts, heap_spans, MOST_IN_MOTION)


def _find(
    areas: Sequence[tuple[int, bytes]],
    layouts: Sequence[ParLayout],
    heap_spans: Sequence[tuple[int, int]],
    in_motion: int,
) -> list[ParValues]:
    best: list[ParValues] = []
    best_score = 0
    abi = layouts[0].abi
    size = abi.word_bytes
    for start, data in areas:
        words = abi.view(data)
        for index in range(len(words) - 5):
            # arena_test and arena_max are small numbers, the thresholds before them sizes: a quick
            # sieve
            if (
                not 0 < words[index + 3] < 1 << 24
                or words[index + 4] >= 1 << 24
                or words[index + 1] >= 1 << 40
            ):
                continue
            for layout in layouts:
                if index * size + layout.size > len(data):
                    continue
                par = parse_par(start + index * size, data, layout, index * size)
                if next(par_faults(par, heap_spans, in_motion), None):
                    continue
                score = defaults_held(par)
                if score > best_score:
                    best, best_score = [par], score
                elif score == best_score:
                    best.append(par)
    if best_score < ENOUGH_DEFAULTS or len({par.address for par in best}) != 1:
        return []
    return best
