"""glibc's own figures: malloc_info's XML and malloc_stats' text, parsed, and how they compare with
our reading."""

from __future__ import annotations

from typing import Literal

from allocscope.immutable import immutable

What = Literal["malloc_info", "malloc_stats", "both", "runtime"]
"""Which of glibc's functions to ask; ``runtime``: those of runtimes and other allocators."""


@immutable
class SizeRow:
    """One ``size`` or ``unsorted`` element of malloc_info, as printed (flag bits included, see
    docs)."""

    from_bytes: int
    to_bytes: int
    total_bytes: int
    count: int


@immutable
class InfoHeap:
    """One ``heap`` element of malloc_info, that is: one arena. Sizes as printed; None where that
    version prints none."""

    index: int
    sizes: tuple[SizeRow, ...]
    unsorted: SizeRow | None
    fast_count: int | None
    fast_bytes: int | None
    rest_count: int
    rest_bytes: int
    system_bytes: int
    max_system_bytes: int
    aspace_bytes: int
    aspace_mprotect_bytes: int
    subheap_count: int | None


@immutable
class MallocInfo:
    """A whole malloc_info document."""

    heaps: tuple[InfoHeap, ...]
    fast_count: int | None
    fast_bytes: int | None
    rest_count: int
    rest_bytes: int
    mmap_count: int | None
    mmap_bytes: int | None
    system_bytes: int
    max_system_bytes: int
    aspace_bytes: int
    aspace_mprotect_bytes: int


@immutable
class FreeOfArena:
    """What malloc_info's figures of one arena really mean, its known inaccuracies taken off: real
    bytes and real chunks.

    ``top_bytes`` is None where that version leaves top out of "rest"."""

    index: int
    fast_count: int | None
    fast_bytes: int | None
    bin_count: int
    bin_bytes: int
    top_bytes: int | None


@immutable
class StatsArena:
    """One arena of malloc_stats: both figures are modulo 2**32 in every glibc version."""

    index: int
    system_bytes: int
    in_use_bytes: int


@immutable
class MallocStats:
    """malloc_stats' text. All but ``max_mmap_bytes`` wrap at 4 GiB."""

    arenas: tuple[StatsArena, ...]
    total_system_bytes: int
    total_in_use_bytes: int
    max_mmap_regions: int
    max_mmap_bytes: int


@immutable
class ArenaLists:
    """What glibc's own functions would count for one arena in the memory that was read (lists, not
    headers): ``bin_*`` are chunks in unsorted, small and large bins without top, ``fast_*`` the
    fastbins, ``top_bytes`` the size word of the top chunk. ``bin_word_bytes`` sums the size words
    as they stand, flag bits included, as malloc_info does. Both follow fd; ``bin_back_bytes`` is
    what malloc_stats finds, which follows bk: not the same while a chunk is being linked."""

    index: int
    bin_count: int
    bin_bytes: int
    bin_word_bytes: int
    bin_back_bytes: int
    fast_count: int
    fast_bytes: int
    top_bytes: int
    system_bytes: int
    max_system_bytes: int
    aspace_bytes: int
    aspace_mprotect_bytes: int
    subheap_count: int


@immutable
class ProcessLists:
    """All arenas of one process as glibc would count them, and ``mp_``'s counters. ``has_fastbins``
    is False from 2.43."""

    arenas: tuple[ArenaLists, ...]
    has_fastbins: bool
    mmap_count: int
    mmap_bytes: int
    max_mmap_count: int
    max_mmap_bytes: int


@immutable
class Difference:
    """One figure on which glibc and our reading differ. ``arena_index`` None: a process total."""

    arena_index: int | None
    figure: str
    glibc: int
    ours: int
    explanation: str


@immutable
class OwnFigure:
    """One figure of a runtime's or allocator's statistics, under the name that it gives it."""

    name: str
    bytes: int


@immutable
class OwnStatistics:
    """What a runtime or another allocator printed about itself (``function`` of ``speaker``), and
    the figures that were recognised in it."""

    speaker: str
    function: str
    text: bytes
    figures: tuple[OwnFigure, ...]


@immutable
class Answer:
    """What glibc printed when asked. ``source``: snapshot or live. ``locks_held`` names the locks
    that were held at that instant (``arena 3``, ``stderr``) and released in the copy."""

    source: str
    pause_ns: int
    malloc_info_xml: bytes | None
    malloc_stats_text: bytes | None
    locks_held: tuple[str, ...]
    elapsed_ns: int
    own: tuple[OwnStatistics, ...] = ()


@immutable
class GlibcSays:
    """glibc's figures joined with ours. ``agrees``: exactly equal, after the documented
    inaccuracies of that version; None where nothing could be compared.
    ``drift_bytes``: bytes in use then minus bytes in use in the passive reading before; None
    without one."""

    source: str
    pause_ns: int
    malloc_info: MallocInfo | None
    malloc_stats: MallocStats | None
    agrees: bool | None
    differences: tuple[Difference, ...]
    locks_held: tuple[str, ...]
    drift_bytes: int | None
