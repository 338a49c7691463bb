"""``footprint``: what processes hold, one by one and as trees.

Strategy: status and smaps_rollup of each process, nothing else; who descends from whom is asked
once. Rules: a process that ends meanwhile is counted, not an error, unless it was asked for by its
number; one that may not be read keeps the row that status gives to everybody. Reading smaps_rollup
costs a process what smaps costs it: about 10 ms per resident GiB, in which it cannot map memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from allocscope.account import footprint as account
from allocscope.errors import AllocscopeError, NoSuchProcess, PermissionRefused
from allocscope.immutable import immutable, replace
from allocscope.model.failure import Failure
from allocscope.model.footprint import Footprint, FootprintAnswer, FootprintData
from allocscope.model.report import Caveat
from allocscope.proc import procfs, select

FORBIDDEN = (
    "{count} may not be read by this user and {are} in no sum: only RSS, peak, swap and page "
    "tables are known. Run as root, or with CAP_SYS_PTRACE."
)
OMITS = Caveat(
    "retained-omits",
    "Retained memory is what the bins and tops of glibc's arenas hold, as far as it is resident, "
    "from the headers of free chunks alone: thread caches and fastbins are not in it, nor what "
    "other allocators and runtimes keep. `allocscope arenas PID` counts all of it.",
)
OLD_KERNEL = Caveat(
    "no-pss-by-kind",
    "This kernel does not tell PSS by kind (Linux 5.0 does): the footprint is unknown.",
)

Progress = Callable[[int, int], None]


@immutable
class Selection:
    """``pids``: asked for by number, errors matter. ``chosen``: found by a search; who of them is
    gone or is no process of user space is left out."""

    pids: tuple[int, ...] = ()
    chosen: tuple[int, ...] = ()


def everyone() -> tuple[int, ...]:
    """All processes but kernel threads, zombies and this one."""
    return tuple(select.pids())


def tree_of(pid: int) -> tuple[int, ...]:
    """``pid`` and its descendants. Raises NoSuchProcess."""
    procfs.stat(pid)
    return tuple(account.tree([pid], account.children_of(procfs.parents())))


def footprint(
    selection: Selection,
    *,
    retained: bool,
    progress: Progress = lambda _done, _of: None,
    deadline_ns: int | None = None,
) -> FootprintAnswer:
    """The rows. ``retained``: also what glibc's malloc holds free in each. ``deadline_ns``
    (CLOCK_MONOTONIC): what could not be read by then is counted; of its retained bytes nothing is
    known.

    A process without a row is in ``failed`` if it was asked for by its number, else counted."""
    started = time.monotonic_ns()
    failed = [failure for pid in selection.pids if (failure := _trouble(pid)) is not None]
    unfit = {failure.pid for failure in failed}
    asked = [pid for pid in selection.pids if pid not in unfit]
    wanted = list(dict.fromkeys([*asked, *selection.chosen]))
    parents = procfs.parents()
    everybody = account.tree(wanted, account.children_of(parents))
    known: dict[int, Footprint] = {}
    late: set[int] = set()
    for done, pid in enumerate(everybody):
        progress(done, len(everybody))
        if _over(deadline_ns):
            late.update(everybody[done:])
            break
        found = _row(pid)
        if found is not None:
            known[pid] = found
    progress(len(everybody), len(everybody))
    rows = account.with_trees([known[pid] for pid in wanted if pid in known], known, parents)
    if retained:
        rows = tuple(_with_retained(rows, progress, deadline_ns, late))
    failed += [_vanished(pid) for pid in asked if pid not in known and pid not in late]
    data = FootprintData(
        rows=rows,
        totals=account.totals(rows),
        forbidden_count=sum(row.pss_bytes is None for row in rows),
        vanished_count=sum(pid not in known and pid not in late for pid in selection.chosen),
        failed=tuple(failed),
        late_count=len(late),
    )
    return FootprintAnswer(data, _caveats(data, retained), time.monotonic_ns() - started)


def _trouble(pid: int) -> Failure | None:
    """Why there can be no row for a process that was asked for by its number."""
    try:
        procfs.identify(pid)
    except PermissionRefused:
        return None  # its status can be read all the same
    except AllocscopeError as error:
        return Failure(pid, select.comm(pid), error.message, error.hint, error.exit_code)
    return None


def _vanished(pid: int) -> Failure:
    gone = NoSuchProcess(f"process {pid} went away meanwhile")
    return Failure(pid, "", gone.message, gone.hint, gone.exit_code)


def _row(pid: int) -> Footprint | None:
    """None for a process that is gone, or that has no memory of its own (any more)."""
    try:
        status = procfs.status(pid)
        if status.rss_bytes is None:
            return None
        try:
            return account.row(pid, status, procfs.smaps_rollup(pid))
        except PermissionRefused:
            return account.row(pid, status, None)
    except (NoSuchProcess, PermissionRefused):
        return None


def _over(deadline_ns: int | None) -> bool:
    return deadline_ns is not None and time.monotonic_ns() > deadline_ns


def _with_retained(
    rows: Sequence[Footprint], progress: Progress, deadline_ns: int | None, late: set[int]
) -> Iterable[Footprint]:
    from allocscope.app.retained import Retained

    retained = Retained()
    for done, row in enumerate(rows):
        progress(done, len(rows))
        if _over(deadline_ns):
            late.add(row.pid)
            yield row
            continue
        yield replace(row, retained_bytes=retained.bytes_of(row.pid))
    progress(len(rows), len(rows))


def _caveats(data: FootprintData, retained: bool) -> tuple[Caveat, ...]:
    found = []
    if data.forbidden_count:
        many = data.forbidden_count
        count = f"{many} process{'es' if many > 1 else ''}"
        text = FORBIDDEN.format(count=count, are="are" if many > 1 else "is")
        found.append(Caveat("forbidden", text, partial=True))
    if data.late_count:
        many = data.late_count
        count = f"{many} process{'es' if many > 1 else ''}"
        text = f"The deadline came before {count} could be read, or read whole; raise --deadline."
        found.append(Caveat("deadline", text, partial=True))
    if data.vanished_count:
        many = data.vanished_count
        text = f"{many} process{'es' if many > 1 else ''} ended before they could be read."
        found.append(Caveat("vanished", text))
    if any(row.pss_bytes is not None and row.footprint_bytes is None for row in data.rows):
        found.append(OLD_KERNEL)
    if retained:
        found.append(OMITS)
    return tuple(found)
