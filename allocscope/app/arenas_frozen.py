"""``arenas --snapshot`` and ``--ask-glibc``: the same reading, of a frozen copy of the process.

The process stands still only while it is copied. Everything that smaps tells is read before that,
because in a copy private pages turn into shared ones.
"""

from __future__ import annotations

import contextlib
import time

from allocscope.act import symbols
from allocscope.act.gdb import Gdb
from allocscope.app import glibc_says, heap, mlocked
from allocscope.app.arenas import ArenasOptions, allocator_of, read_smaps
from allocscope.app.frozen_heap import freeze
from allocscope.app.target import Target, look
from allocscope.glibc.lists import in_use_bytes
from allocscope.model.heap import ArenasData
from allocscope.model.report import Caveat, Method, Report
from allocscope.proc import procfs
from allocscope.proc.memory import ProcessMemory


def _passive_in_use(target: Target, deadline_ns: int) -> int:
    """Bytes in use by a passive reading, for the drift between it and the snapshot."""
    with ProcessMemory(target.process.pid) as memory:
        answer = heap.read(
            memory, target, sort=heap.VALIDATED, deadline_ns=deadline_ns, max_rounds=1
        )
        return in_use_bytes(answer.reading)


def arenas_frozen(
    pid: int, options: ArenasOptions, *, ask_glibc: bool, max_pause_ns: int
) -> Report[ArenasData]:
    """The arenas of a frozen copy of ``pid``; with ``ask_glibc`` glibc's own figures of that copy
    beside them.

    Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5), Unsafe (7), MissingPart
    (8)."""
    started = time.monotonic_ns()
    deadline_ns = started + int(options.deadline_s * 1e9)
    target = look(pid)
    rss = procfs.rss_bytes(pid)
    smaps, smaps_caveats = read_smaps(pid, rss, options.exact)
    says = None
    caveats: tuple[Caveat, ...] = ()
    with contextlib.ExitStack() as stack:
        gdb = stack.enter_context(Gdb(deadline_ns)) if ask_glibc else None
        passive = _passive_in_use(target, deadline_ns) if ask_glibc else None
        taken = freeze(
            stack,
            target,
            for_glibc=ask_glibc,
            max_pause_ns=max_pause_ns,
            deadline_ns=deadline_ns,
            trim=mlocked.trim_among(smaps),
        )
        answer = taken.answer
        if gdb is not None:
            where = symbols.resolve(pid, answer.image, glibc_says.COPY_SYMBOLS)
            arenas = tuple(item.state.address for item in answer.reading.arenas)
            said = glibc_says.ask(gdb, taken.snapshot, where, arenas, "both")
            says, caveats = glibc_says.join(said, taken.memory, answer, passive)
    allocator, allocator_caveats = allocator_of(pid, target.mappings, answer.image)
    procfs.same(target.process)
    data = heap.present(answer, target, rss_bytes=rss, smaps=smaps, glibc_says=says)
    locked_caveats = mlocked.caveats(answer, smaps) if mlocked.any_of(pid) else ()
    return Report(
        process=target.process,
        libc=answer.libc,
        allocator=allocator,
        method=Method(
            "snapshot", taken.pause_ns, time.monotonic_ns() - started, answer.consistency
        ),
        data=data,
        caveats=allocator_caveats
        + smaps_caveats
        + locked_caveats
        + heap.caveats(answer, data)
        + caveats,
    )
