"""What of a process is mlocked, where the kernel refuses malloc_trim's madvise.

Rule: VmLck in status says for next to nothing whether there is any; only then smaps, which holds
the process's mmap lock while it is read, has to tell where.
"""

from __future__ import annotations

from collections.abc import Iterable

from allocscope.app.heap import HeapAnswer
from allocscope.glibc.pieces import PLAIN_TRIM, Trim
from allocscope.model.process import SmapsEntry
from allocscope.model.report import Caveat
from allocscope.proc import procfs

NOT_KNOWN = Caveat(
    "mlocked",
    "Memory is mlocked, where malloc_trim's madvise fails, and `trimmable` includes it: above 1 "
    "GiB of RSS where it lies is found out with --exact (`allocscope trim` always does).",
)

NOT_RECORDED = Caveat(
    "mlocked",
    "Where memory was mlocked, so that malloc_trim's madvise failed, this recording does not tell, "
    "and the forecast includes it; `record --exact` tells.",
)


def any_of(pid: int) -> bool:
    """Is any memory mlocked? NoSuchProcess, PermissionRefused."""
    return bool(procfs.status(pid).locked_bytes)


def edges(entries: Iterable[SmapsEntry]) -> list[int]:
    """Start, end, start, end, … of what is mlocked, ascending."""
    found: list[int] = []
    for mapping in (entry.mapping for entry in entries if entry.locked_bytes):
        if found and found[-1] == mapping.start:
            found[-1] = mapping.end
        else:
            found += [mapping.start, mapping.end]
    return found


def trim_among(entries: Iterable[SmapsEntry] | None, pad_bytes: int = 0) -> Trim:
    """malloc_trim(``pad_bytes``) in a process with these mappings; None: nobody looked."""
    locked = edges(entries or ())
    return Trim(pad_bytes, locked) if locked or pad_bytes else PLAIN_TRIM


def caveats(answer: HeapAnswer, entries: Iterable[SmapsEntry] | None) -> tuple[Caveat, ...]:
    """What `trimmable` leaves out, of a reading that was told what is mlocked by these mappings;
    None: something is, and nobody looked where."""
    if entries is None:
        return (NOT_KNOWN,)
    arenas = answer.reading.arenas
    kept = sum(piece.tally.locked_trim_bytes for item in arenas for piece in item.pieces)
    if not kept:
        return ()
    text = (
        f"{kept} bytes of whole free pages are mlocked: malloc_trim's madvise fails there, and "
        "`trimmable` does not include them."
    )
    return (Caveat("mlocked", text),)


def now(pid: int) -> list[int]:
    """As ``edges``, of the live process."""
    return edges(procfs.smaps(pid)) if any_of(pid) else []
