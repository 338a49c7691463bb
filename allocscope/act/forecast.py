"""What a snapshot will cost the target, said before it is made.

Strategy: fork copies page tables, page by page. Each 4 KiB page costs a reference count and a
reverse mapping, a table costs its allocation, a huge page hardly more than one small page. Measured
on Linux 6.18, x86-64, 2 vCPUs: 19–22 ms per resident GiB in 4 KiB pages, 0.7 ms per GiB of huge
pages.

Rules: read only; the mmap lock of the target is held for 64 MiB at a time. A forecast is labelled
as one, and the real pause is measured and printed. Memory: the copy's page tables are needed for
certain. Pages are copied when the target writes to them; a snapshot lives for a second or so, and
room for a quarter of the memory is asked for. Beyond that the kernel's out-of-memory killer takes
the copy (oom_score_adj 1000) before anything else.

Source: copy_page_range in mm/memory.c; vma_needs_copy skips mappings without private pages.
"""

from __future__ import annotations

import os
from pathlib import Path

from allocscope.act import task
from allocscope.errors import Unsafe
from allocscope.immutable import immutable
from allocscope.native import ffi, lib
from allocscope.proc import cgroups, procfs, refusal

_BASE_NS = 500_000
_SMALL_PAGE_NS = 75
_TABLE_NS = 1_500
_PAGE = 4096
_HUGE = 2 << 20
_COPIES_NEEDED = 2
_WRITTEN_SHARE = 4  # one page in so many is expected to be written while the copy lives, at most

_THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@immutable
class Forecast:
    """Expected cost of one snapshot.

    ``pause_ns``: how long one thread will stand still. ``page_table_bytes``: needed at once.
    ``growth_bytes``: what it may come to while the copy lives. ``headroom_bytes``: what the limit
    named by ``limit`` leaves. ``huge_bytes``: memory in huge pages; those that the target writes to
    while the copy lives are split for good. ``processes_left``: None for no limit.
    """

    pause_ns: int
    page_table_bytes: int
    growth_bytes: int
    huge_bytes: int
    headroom_bytes: int
    limit: str
    processes_left: int | None


def forecast_of(pid: int) -> Forecast:
    """Raises NoSuchProcess, PermissionRefused."""
    private = _size(pid, "RssAnon") + _size(pid, "VmSwap")
    tables = _size(pid, "VmPTE")
    huge = min(_huge_bytes(pid), private)
    pause = _BASE_NS + (private - huge) // _PAGE * _SMALL_PAGE_NS + tables // _PAGE * _TABLE_NS
    room = cgroups.memory_room(pid)
    return Forecast(
        pause_ns=pause,
        page_table_bytes=tables,
        growth_bytes=_COPIES_NEEDED * tables + private // _WRITTEN_SHARE,
        huge_bytes=huge,
        headroom_bytes=room.left,
        limit=room.limit,
        processes_left=cgroups.process_room(pid),
    )


def refuse(pid: int, expected: Forecast, max_pause_ns: int) -> None:
    """Raises Unsafe, with the figures, when the cost is above what is allowed."""
    if expected.pause_ns > max_pause_ns:
        raise Unsafe(
            f"a snapshot of process {pid} would stop one of its threads for about "
            f"{_ms(expected.pause_ns)} ms, more than the {_ms(max_pause_ns)} ms allowed",
            f"Allow it with --max-pause {_allowance_ms(expected)}, or use a command that only "
            "reads (explain, arenas, trim).",
        )
    if expected.growth_bytes > expected.headroom_bytes:
        raise Unsafe(
            f"a snapshot of process {pid} may need {_mib(expected.growth_bytes)} MiB while it "
            f"lives, and {_mib(expected.headroom_bytes)} MiB are left ({expected.limit})",
            "Raise the limit, or use a command that only reads (explain, arenas, trim).",
        )
    if expected.processes_left is not None and expected.processes_left < _COPIES_NEEDED:
        raise Unsafe(
            f"a snapshot of process {pid} needs {_COPIES_NEEDED} more processes in its cgroup, and "
            f"{expected.processes_left} are allowed",
            "Raise pids.max, or use a command that only reads (explain, arenas, trim).",
        )


def _huge_bytes(pid: int) -> int:
    """Resident bytes in transparent huge pages, 0 where the kernel has none or cannot tell (before
    Linux 6.7).
    """
    if not _THP.exists() or "[never]" in _THP.read_text():
        return 0
    wanted = [m for m in procfs.mappings(pid) if m.anonymous and m.size_bytes >= _HUGE]
    source = ffi.new("as_source **")
    number = lib.as_source_process(pid, source)
    if number:
        raise refusal.translate(pid, "the pagemap", OSError(number, os.strerror(number)))
    try:
        total = 0
        residency = ffi.new("as_residency *")
        for mapping in wanted:
            if lib.as_residency_of(source[0], mapping.start, mapping.end, residency) == 0:
                total += residency.huge_bytes
        return total
    finally:
        lib.as_source_close(source[0])


def _size(pid: int, name: str) -> int:
    """A line of status in kB, in bytes; a process that has just ended has none."""
    return int((task.status_line(pid, name) or "0").split()[0]) * 1024


def _allowance_ms(expected: Forecast) -> int:
    """Whole milliseconds, half as much again as forecast."""
    return expected.pause_ns * 3 // 2_000_000 + 1


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.1f}"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f}"
