"""What a process is answerable for, from what the kernel counts.

    footprint = Pss_Anon + Pss_Shmem + SwapPss - LazyFree + VmPTE, at least 0

Anonymous and shared memory that the kernel cannot drop, resident or swapped, its share where
others share it; without what it has given back with MADV_FREE, and with its page tables. File pages
are not in it: they can be dropped and read again.

Rules: a sum with an unknown part is unknown; a process that may not be read is in no total, but
counted; a tree is a process with all its descendants.

Source: proc_pid_smaps(5), proc_pid_status(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from allocscope.immutable import names_of, replace
from allocscope.model.footprint import Footprint, Totals
from allocscope.model.process import ProcessStatus, SmapsRollup

SUMMED = names_of(Totals)
UNKNOWN = Totals(**dict.fromkeys(SUMMED))
"""Of a file that tells no PSS."""


def row(pid: int, status: ProcessStatus, rollup: SmapsRollup | None) -> Footprint:
    """One process. Without ``rollup`` (not allowed to be read) only what status tells."""
    if rollup is None:
        return replace(
            unread(pid, status.comm, status.rss_bytes),
            ppid=status.ppid,
            peak_rss_bytes=status.peak_rss_bytes,
            swap_bytes=status.swap_bytes,
            page_table_bytes=status.page_table_bytes,
        )
    return Footprint(
        pid=pid,
        ppid=status.ppid,
        comm=status.comm,
        rss_bytes=rollup.rss_bytes,
        peak_rss_bytes=status.peak_rss_bytes,
        pss_bytes=rollup.pss_bytes,
        uss_bytes=rollup.private_clean_bytes + rollup.private_dirty_bytes,
        private_dirty_bytes=rollup.private_dirty_bytes,
        swap_bytes=rollup.swap_bytes,
        swap_pss_bytes=rollup.swap_pss_bytes,
        lazyfree_bytes=rollup.lazyfree_bytes,
        page_table_bytes=status.page_table_bytes,
        footprint_bytes=footprint_bytes(status, rollup),
    )


def unread(pid: int, comm: str, rss_bytes: int | None) -> Footprint:
    """A process of which nothing else is known."""
    return Footprint(
        pid=pid,
        ppid=None,
        comm=comm,
        rss_bytes=rss_bytes,
        peak_rss_bytes=None,
        pss_bytes=None,
        uss_bytes=None,
        private_dirty_bytes=None,
        swap_bytes=None,
        swap_pss_bytes=None,
        lazyfree_bytes=None,
        page_table_bytes=None,
        footprint_bytes=None,
    )


def footprint_bytes(status: ProcessStatus, rollup: SmapsRollup) -> int | None:
    """The formula above; None where this kernel does not tell a part of it."""
    whole = total(
        (
            rollup.pss_anon_bytes,
            rollup.pss_shmem_bytes,
            rollup.swap_pss_bytes,
            status.page_table_bytes,
        )
    )
    if whole is None or rollup.lazyfree_bytes is None:
        return None
    return max(0, whole - rollup.lazyfree_bytes)


def with_trees(
    wanted: Sequence[Footprint], known: Mapping[int, Footprint], parents: Mapping[int, int]
) -> tuple[Footprint, ...]:
    """``wanted``, each with the footprint of its tree. ``known`` has a row for every descendant
    that could be read; ``parents`` says who descends from whom."""
    children = children_of(parents)
    return tuple(
        replace(
            one,
            tree_footprint_bytes=total(
                known[pid].footprint_bytes for pid in tree([one.pid], children) if pid in known
            ),
        )
        for one in wanted
    )


def children_of(parents: Mapping[int, int]) -> dict[int, list[int]]:
    """The children of each process that has any."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    return children


def tree(roots: Iterable[int], children: Mapping[int, Sequence[int]]) -> list[int]:
    """The processes and all their descendants, each once, parents first."""
    found = dict.fromkeys(roots)
    waiting = list(found)
    for pid in waiting:
        new = [child for child in children.get(pid, ()) if child not in found]
        found.update(dict.fromkeys(new))
        waiting += new
    return waiting


def totals(rows: Sequence[Footprint]) -> Totals:
    """Column by column, over the rows that could be read; what is retained over those of them that
    have a glibc heap."""
    read = [row for row in rows if row.pss_bytes is not None]
    sums = {name: total(getattr(row, name) for row in read) for name in SUMMED}
    retained = [row.retained_bytes for row in read if row.retained_bytes is not None]
    return Totals(**{**sums, "retained_bytes": total(retained) if retained else None})


def total(values: Iterable[int | None]) -> int | None:
    """The sum; None where a part is unknown."""
    whole = 0
    for value in values:
        if value is None:
            return None
        whole += value
    return whole
