"""The answer of ``watch``: one process, sample by sample.

A *glance* costs next to nothing: the kernel's counters and the headers of malloc's arenas. A *walk*
reads every chunk's header and gives the ledger. Every sample has a glance of its own, and the last
walk with its age.
"""

from __future__ import annotations

from typing import Literal

from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX
from allocscope.model.ledger import CauseKey, LedgerKey

EndKey = Literal["time", "quit", "ended", "exec"]
"""Why the watching came to its end: --for was over, somebody stopped it, the process ended, or it
started another program."""


@immutable
class ArenaGlance:
    """An arena by its header alone. ``index``: place in the ring, 0 = main; ``top_bytes`` is None
    where top's own header could not be read. ``header_crc32``: of the header without its lock; as
    long as it stays the same, no bin, no fastbin and no top of this arena has been used."""

    index: int
    address: int = field(metadata=HEX)
    attached_threads: int | None
    system_bytes: int
    top_bytes: int | None
    header_crc32: int


@immutable
class MallocGlance:
    """glibc's malloc without a walk: the arenas' headers, and the counters in ``mp_`` of chunks
    that have a mapping of their own."""

    arenas: tuple[ArenaGlance, ...]
    system_bytes: int
    mmapped_count: int
    mmapped_bytes: int


@immutable
class Glance:
    """What one sample costs little to know. The kernel's figures are those of /proc/PID/status,
    None where it prints none; ``malloc`` is None where the arenas changed while being read,
    ``descriptor_count`` where they may not be looked at. ``refault_count``: pages that came back to
    its control group after they had been taken, since the group was made; None where the group does
    not tell."""

    rss_bytes: int | None
    peak_rss_bytes: int | None
    swap_bytes: int | None
    page_table_bytes: int | None
    thread_count: int
    malloc: MallocGlance | None
    refault_count: int | None = None
    descriptor_count: int | None = None


@immutable
class WalkRow:
    """A row of the ledger, as in ``explain``, without its evidence."""

    key: LedgerKey
    label: str
    resident_bytes: int
    lazyfree_bytes: int | None
    swapped_bytes: int | None


@immutable
class WalkArena:
    """What a walk says of one arena, in resident bytes."""

    index: int
    address: int = field(metadata=HEX)
    resident_bytes: int
    live_bytes: int
    free_bytes: int
    trimmable_bytes: int


@immutable
class Walk:
    """The ledger as the sample ``sample`` read it. The rows' resident bytes and ``drift_bytes`` sum
    to ``rss_bytes``, which is the sum of Rss over smaps."""

    sample: int
    rss_bytes: int
    ledger: tuple[WalkRow, ...]
    drift_bytes: int
    arenas: tuple[WalkArena, ...]
    cause: CauseKey
    verdict: str


@immutable
class Sample:
    """One look at the process. ``number`` counts from 1; ``elapsed_s``: since the watching began.

    ``walked``: the walk is of this very sample. ``age_s``: seconds since it was made;
    ``moved_bytes``: how far the glances have moved since. ``cpu_ns``: CPU time that allocscope
    needed for this sample. ``refaults_per_s``: pages of the control group, since the sample before;
    None for the first sample, and where one of the two does not tell."""

    number: int
    elapsed_s: float
    glance: Glance
    walked: bool
    walk: Walk
    age_s: float
    moved_bytes: int
    cpu_ns: int
    refaults_per_s: float | None = None
    kind: Literal["sample"] = "sample"


@immutable
class End:
    """The last line of every watching."""

    reason: EndKey
    message: str
    sample_count: int
    elapsed_s: float
    kind: Literal["end"] = "end"
