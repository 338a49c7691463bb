"""What malloc_trim would give back, what it gave in a rehearsal, what it gave.

Bytes are resident bytes of the arenas' own pages unless a name says otherwise. ``released`` is
always measured as the fall of those; ``forecast`` is always computed beforehand.
"""

from __future__ import annotations

from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX


@immutable
class Stays:
    """Free bytes that are resident and that malloc_trim would leave, each counted under the first
    reason that holds.

    ``top_bytes``: the top chunk; of the main arena what is left of it, of another all of it.
    ``tcache_bytes``: parked in tcaches. ``locked_bytes``: whole free pages in mlocked memory, where
    the kernel refuses MADV_DONTNEED. ``shared_page_bytes``: other free chunks, or the ends of
    those that go: a chunk in use, or a chunk's own header, lies on the same page."""

    top_bytes: int
    tcache_bytes: int
    locked_bytes: int
    shared_page_bytes: int


@immutable
class ArenaForecast:
    """One arena. ``bytes``: what would leave RSS. ``madvise_count`` and ``brk_count``: the system
    calls that glibc will make for it, also where nothing is resident any more."""

    index: int
    address: int = field(metadata=HEX)
    is_main: bool
    bytes: int
    resident_bytes: int
    madvise_count: int
    brk_count: int
    stays: Stays


@immutable
class Pace:
    """What the estimated times rest on, in nanoseconds. The kernel's part was measured just now, on
    memory of allocscope's own: ``call_ns`` for each call, ``page_ns`` for each page released,
    ``fault_ns`` for each page faulted in again. glibc's part is taken from docs/trim-forecast.md:
    ``visit_ns`` for each binned chunk that it looks at, ``merge_ns`` for each fastbin chunk that it
    merges with its neighbours."""

    call_ns: int
    page_ns: int
    fault_ns: int
    visit_ns: int
    merge_ns: int


@immutable
class TrimForecast:
    """What malloc_trim(``pad_bytes``) would do now. ``page_count``: pages that would leave RSS, and
    so the most that can be faulted in again. ``visit_count``, ``merge_count``: chunks in bins, all
    of which it looks at, and in fastbins that it empties (up to 2.42). ``estimated_ns`` and
    ``estimated_most_ns``: the CPU time that all this takes, at ``pace`` and where nothing is in the
    CPU's caches; ``estimated_refault_ns``: that of faulting all those pages in again."""

    pad_bytes: int
    bytes: int
    page_count: int
    madvise_count: int
    brk_count: int
    visit_count: int
    merge_count: int
    stays: Stays
    pace: Pace
    estimated_ns: int
    estimated_most_ns: int
    estimated_refault_ns: int
    per_arena: tuple[ArenaForecast, ...]


@immutable
class ArenaReleased:
    """One arena, measured. ``error_bytes``: released minus forecast."""

    index: int
    released_bytes: int
    forecast_bytes: int
    error_bytes: int


@immutable
class Rehearsed:
    """malloc_trim in a frozen copy. ``duration_ns``: of the call; ``pause_ns``: how long the
    process itself stood still to be copied; ``returned``: what malloc_trim returned;
    ``locks_held``: arena locks that somebody held at that instant, opened in the copy."""

    bytes: int
    per_arena: tuple[ArenaReleased, ...]
    duration_ns: int
    pause_ns: int
    returned: int
    locks_held: int


@immutable
class Refaults:
    """What came back in the ``watched_ns`` after a trim: ``minor_fault_count`` of the whole process
    (field 10 of stat), and ``returned_bytes``: by how much more of the pages that were the arenas'
    before the trim is resident again."""

    watched_ns: int
    minor_fault_count: int
    returned_bytes: int


@immutable
class LiveCall:
    """A call of malloc_trim that the process made itself. ``tid``: the thread that made it;
    ``duration_ns``: of the call; ``pause_ns``: how long that thread was kept from its own work
    beyond the call."""

    tid: int
    duration_ns: int
    pause_ns: int
    returned: int


@immutable
class Applied:
    """A trim of the process itself, audited. The call as in LiveCall; ``rss_after_bytes``: of the
    whole process; ``refaults`` is None where nobody watched for them."""

    released_bytes: int
    per_arena: tuple[ArenaReleased, ...]
    tid: int
    duration_ns: int
    pause_ns: int
    returned: int
    rss_after_bytes: int
    refaults: Refaults | None


@immutable
class TrimData:
    """The answer of ``trim``. ``rss_bytes`` is that of the whole process, before; None where
    nothing tells (a core).
    ``free_resident_bytes``: what the arenas hold free and resident; the forecast's ``bytes`` and
    all that ``stays`` add up to it. ``error_bytes``: what was released by ``applied`` (else by
    ``rehearsed``) minus the forecast; None where nothing was run."""

    rss_bytes: int | None
    resident_bytes: int
    free_resident_bytes: int
    forecast: TrimForecast
    rehearsed: Rehearsed | None
    applied: Applied | None
    error_bytes: int | None
