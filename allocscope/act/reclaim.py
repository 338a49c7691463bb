"""Making the kernel take back what a process has given it with MADV_FREE, and nothing else.

Strategy: the pages are looked up frame by frame, and each batch is advised at once
(process_madvise, MADV_PAGEOUT), so that little time is left in which one of them could become
something else. The kernel drops such a page without writing it anywhere, and looks before that
whether it was written to: then it keeps it. It also keeps what a processor has put aside in order
to move pages between its lists a few at a time (a page that somebody has just read, for one): where
pages are left, all processors are made to finish that, and what is lazily freed then is asked for.

Rules: never on a whole mapping, always on pages that were seen to be lazily freed: elsewhere the
same call would split huge pages and, with swap, put live data there. A page that the kernel refuses
(mlock) is passed over. The process is held by a pidfd, so that its number cannot come to mean
another.

Source: process_madvise(2), madvise(2); madvise_cold_or_pageout_pte_range in mm/madvise.c,
shrink_folio_list and try_to_unmap_one (the lazily freed case) in mm/vmscan.c and mm/rmap.c;
folio_mark_accessed and lru_add_drain_all in mm/swap.c.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Sequence

from allocscope.errors import (
    AllocscopeError,
    InternalError,
    MissingPart,
    NoSuchProcess,
    PermissionRefused,
)
from allocscope.immutable import immutable
from allocscope.model.process import Process
from allocscope.native import ffi, lib
from allocscope.proc import procfs, refusal
from allocscope.proc.memory import ProcessMemory
from allocscope.proc.pages import FrameFlags, Span, native_runs

_CURE = "Run it as root in the initial user namespace (a container: --cap-add SYS_NICE, SYS_ADMIN)."


@immutable
class Taken:
    """In bytes. ``advised``: what was asked for, twice where it was left the first time;
    ``released``: gone afterwards; ``swapped``: in swap afterwards, because it had been written to
    just then."""

    advised_bytes: int
    released_bytes: int
    swapped_bytes: int
    duration_ns: int


def refuse_without_rights(pid: int) -> None:
    """Raises PermissionRefused, naming what is missing and the cure."""
    missing = [] if refusal.holds(refusal.CAP_SYS_NICE) else ["CAP_SYS_NICE"]
    frames = FrameFlags.open_if_allowed()
    if frames is None:
        missing.append("CAP_SYS_ADMIN")
    else:
        frames.close()
    if missing:
        why = {
            "CAP_SYS_NICE": "process_madvise wants CAP_SYS_NICE for another process",
            "CAP_SYS_ADMIN": "without CAP_SYS_ADMIN the pages are not known one by one, and whole "
            "mappings are never reclaimed",
        }
        raise PermissionRefused(
            f"not allowed to reclaim pages of process {pid}: "
            + "; ".join(why[name] for name in missing),
            _CURE,
        )


def reclaim(memory: ProcessMemory, process: Process, spans: Sequence[Span]) -> Taken:
    """Takes the lazily freed pages out of ``spans`` of the process.

    Raises PermissionRefused, NoSuchProcess, MissingPart (Linux before 5.10)."""
    with _frames(process.pid) as frames, _handle(process.pid) as handle:
        procfs.same(process)
        started = time.monotonic_ns()

        def lazy() -> Iterator[list[Span]]:
            return (runs for span in spans for runs in frames.lazy_runs(memory, *span) if runs)

        taken = [_take(handle, memory, process.pid, batch) for batch in lazy()]
        if any(lazy()):
            lib.as_settle_pages()  # a kernel that cannot leaves them; the caller sees what is left
            taken += [_take(handle, memory, process.pid, batch) for batch in lazy()]
        duration = time.monotonic_ns() - started
    advised, released, swapped = map(sum, zip((0, 0, 0), *taken, strict=True))
    return Taken(advised, released, swapped, duration)


def _frames(pid: int) -> FrameFlags:
    refuse_without_rights(pid)
    frames = FrameFlags.open_if_allowed()
    if frames is None:
        raise PermissionRefused(f"page frames of process {pid} cannot be seen", _CURE)
    return frames


@contextlib.contextmanager
def _handle(pid: int) -> Iterator[int]:
    try:
        handle = os.pidfd_open(pid)
    except OSError as error:
        raise refusal.translate(pid, "the process", error) from error
    try:
        yield handle
    finally:
        os.close(handle)


def _take(handle: int, memory: ProcessMemory, pid: int, batch: list[Span]) -> tuple[int, int, int]:
    """One batch: bytes advised, released, swapped."""
    advised = ffi.new("uint64_t *")
    number = lib.as_page_out(handle, native_runs(batch), len(batch), advised)
    if number:
        raise _failure(pid, number)
    asked = sum(end - start for start, end in batch)
    after = memory.residency_in(batch)
    gone = asked - after.resident_bytes - after.zero_bytes - after.swapped_bytes
    return int(advised[0]), gone, after.swapped_bytes


def _failure(pid: int, number: int) -> AllocscopeError:
    if number == errno.EPERM:
        return PermissionRefused(
            f"the kernel does not let us reclaim pages of process {pid} (CAP_SYS_NICE)", _CURE
        )
    if number == errno.ESRCH:
        return NoSuchProcess(f"process {pid} went away meanwhile")
    if number == errno.ENOSYS:
        return MissingPart(
            "this kernel has no process_madvise", "Linux 5.10 or newer is needed to reclaim."
        )
    return InternalError(f"reclaiming pages of process {pid} failed: {os.strerror(number)}")
