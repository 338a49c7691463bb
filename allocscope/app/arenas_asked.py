"""``arenas --ask-glibc`` where no known layout fits: glibc itself answers, in a frozen copy, alone.

Rules: this is done only when asked for; what malloc_info does not tell is unknown, and named. Where
the arenas lie is unknown too, so locks held at the instant of the copy cannot be released: then
glibc does not answer before the deadline, and the copy ends without an answer.
"""

from __future__ import annotations

import time

from allocscope.account.asked import asked
from allocscope.act import symbols
from allocscope.act.gdb import Gdb
from allocscope.act.snapshot import frozen
from allocscope.app import glibc_says
from allocscope.app.arenas import ArenasOptions, allocator_of
from allocscope.app.arenas_frozen import arenas_frozen
from allocscope.app.target import libc_of, look
from allocscope.errors import BadInput, UnknownLayout
from allocscope.model.asked import AskedData
from allocscope.model.glibc_says import GlibcSays
from allocscope.model.heap import ArenasData
from allocscope.model.report import Caveat, Method, Report
from allocscope.parse import malloc_info
from allocscope.proc import procfs

ALONE = Caveat(
    "glibc-alone",
    "Malloc's own structures could not be read (no known layout fits, or they are swapped out): "
    "the figures are what glibc's malloc_info says, in address space. Unknown: what of it is "
    "resident, trimmable or pinned; live bytes apart from thread caches and overheads; chunk "
    "sizes, heaps, threads and settings. "
    "`doctor PID --layout` prints what a new row of the layout table needs.",
    partial=True,
)


def arenas_asked(
    pid: int, options: ArenasOptions, *, max_pause_ns: int
) -> Report[ArenasData] | Report[AskedData]:
    """The arenas of a frozen copy of ``pid`` and glibc's own figures beside them; those alone where
    the layout is unknown.

    Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5), Unsafe (7), MissingPart
    (8)."""
    started_ns = time.monotonic_ns()
    try:
        return arenas_frozen(pid, options, ask_glibc=True, max_pause_ns=max_pause_ns)
    except UnknownLayout:
        deadline_ns = started_ns + int(options.deadline_s * 1e9)
        return _alone(pid, max_pause_ns, deadline_ns, started_ns)


def _alone(pid: int, max_pause_ns: int, deadline_ns: int, started_ns: int) -> Report[AskedData]:
    target = look(pid)
    image = target.images[0]
    rss_bytes = procfs.rss_bytes(pid)
    with (
        Gdb(deadline_ns) as gdb,
        frozen(pid, max_pause_ns=max_pause_ns, deadline_ns=deadline_ns) as snapshot,
    ):
        where = symbols.resolve(pid, image, glibc_says.COPY_SYMBOLS)
        said = glibc_says.ask(gdb, snapshot, where, (), "malloc_info")
    if said.malloc_info_xml is None:
        raise BadInput("glibc printed nothing")
    info = malloc_info.parse(said.malloc_info_xml)
    allocator, allocator_caveats = allocator_of(pid, target.mappings, image)
    procfs.same(target.process)
    says = GlibcSays(
        source=said.source,
        pause_ns=said.pause_ns,
        malloc_info=info,
        malloc_stats=None,
        agrees=None,
        differences=(),
        locks_held=said.locks_held,
        drift_bytes=None,
    )
    return Report(
        process=target.process,
        libc=libc_of(image, None, None),
        allocator=allocator,
        method=Method("snapshot", said.pause_ns, time.monotonic_ns() - started_ns, "partial"),
        data=asked(info, says, rss_bytes),
        caveats=(ALONE, glibc_says.LOCKS_UNKNOWN, *allocator_caveats),
    )
