"""The rows of ``footprint``: one process each, in bytes, None where it cannot be known."""

from __future__ import annotations

from allocscope.immutable import immutable
from allocscope.model.failure import Failure
from allocscope.model.process import Process
from allocscope.model.report import Caveat, Method


@immutable
class Footprint:
    """What one process holds, by every measure there is.

    ``rss_bytes``, ``swap_bytes``: shared pages counted in full; ``pss_bytes``,
    ``swap_pss_bytes``: divided among those who share them; ``uss_bytes``: without them.
    ``footprint_bytes``: what it is answerable for and the kernel cannot simply drop.
    ``tree_footprint_bytes``: that, with all descendants. ``retained_bytes``: free in glibc's
    malloc, and resident.
    """

    pid: int
    ppid: int | None
    comm: str
    rss_bytes: int | None
    peak_rss_bytes: int | None
    pss_bytes: int | None
    uss_bytes: int | None
    private_dirty_bytes: int | None
    swap_bytes: int | None
    swap_pss_bytes: int | None
    lazyfree_bytes: int | None
    page_table_bytes: int | None
    footprint_bytes: int | None
    tree_footprint_bytes: int | None = None
    retained_bytes: int | None = None


@immutable
class Totals:
    """Sums over the rows that could be read; None where one of them is unknown.
    ``retained_bytes``: over those that have a glibc heap."""

    rss_bytes: int | None
    peak_rss_bytes: int | None
    pss_bytes: int | None
    uss_bytes: int | None
    private_dirty_bytes: int | None
    swap_bytes: int | None
    swap_pss_bytes: int | None
    lazyfree_bytes: int | None
    page_table_bytes: int | None
    footprint_bytes: int | None
    retained_bytes: int | None


@immutable
class FootprintData:
    """``forbidden_count``: rows of which only status may be read. ``vanished_count``: selected
    processes that ended before they were read. ``failed``: processes asked for by pid that gave no
    row."""

    rows: tuple[Footprint, ...]
    totals: Totals
    forbidden_count: int
    vanished_count: int
    failed: tuple[Failure, ...]


@immutable
class FootprintAnswer:
    """The data and what the reader must know. ``elapsed_ns``: how long it took. The rest is of an
    answer from a file: whose it is, how and when (seconds since 1970) it was recorded."""

    data: FootprintData
    caveats: tuple[Caveat, ...]
    elapsed_ns: int
    process: Process | None = None
    method: Method | None = None
    captured_at: float | None = None
