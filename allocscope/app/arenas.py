"""``arenas``: the passive reading. Nothing is stopped, nothing injected, no page faulted into the
target."""

from __future__ import annotations

import time

from allocscope.app import heap
from allocscope.app.meanwhile import meanwhile
from allocscope.app.target import MALLOC_DEBUG, look
from allocscope.glibc.pieces import PLAIN_TRIM
from allocscope.immutable import immutable
from allocscope.model.heap import ArenasData
from allocscope.model.libc import Allocator, LibcImage
from allocscope.model.process import Mapping, SmapsEntry
from allocscope.model.report import Caveat, Method, Report
from allocscope.proc import allocators, procfs
from allocscope.proc.memory import ProcessMemory

SMAPS_MAX_RSS_BYTES = 1 << 30
"""Above this smaps is left alone unless ``exact``: reading it holds the target's mmap lock for 10
ms per GiB."""
SMAPS_NOT_READ = Caveat(
    "smaps-not-read",
    "Private_Dirty and LazyFree are unknown: above 1 GiB of RSS smaps is read with --exact.",
)
OTHER_ALLOCATOR = (
    "malloc is served by {name} here: glibc's arenas hold only what glibc itself uses."
)


@immutable
class ArenasOptions:
    """``exact``: read smaps whatever it costs the target. ``deadline_s``: seconds after which
    nothing more is started."""

    exact: bool = False
    deadline_s: float = 30.0


Smaps = tuple[tuple[SmapsEntry, ...] | None, tuple[Caveat, ...]]


def read_smaps(pid: int, rss_bytes: int, exact: bool) -> Smaps:
    """smaps, or None with the reason: it is read for small processes and on request."""
    if exact or rss_bytes <= SMAPS_MAX_RSS_BYTES:
        return procfs.smaps(pid), ()
    return None, (SMAPS_NOT_READ,)


def allocator_of(
    pid: int, mappings: tuple[Mapping, ...], image: LibcImage
) -> tuple[Allocator, tuple[Caveat, ...]]:
    """Who serves malloc. When it is not glibc, its arenas say little about this process, and the
    reader must know."""
    found = allocators.identify(pid, mappings, image)
    if found.name == "glibc":
        return found, ()
    if found.name == MALLOC_DEBUG:  # glibc's malloc once more, or hands all calls on to it
        return Allocator("glibc", (found.name, *found.others)), ()
    return found, (Caveat("other-allocator", OTHER_ALLOCATOR.format(name=found.name)),)


def arenas(pid: int, options: ArenasOptions) -> Report[ArenasData]:
    """The arenas of a live process.

    Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5)."""
    started = time.monotonic_ns()
    deadline_ns = started + int(options.deadline_s * 1e9)
    target = look(pid)
    before = procfs.stillness(pid)
    rss = procfs.rss_bytes(pid)
    trim, first = PLAIN_TRIM, None
    if procfs.status(pid).locked_bytes:
        from allocscope.app import mlocked  # few processes need it, and each module costs time

        first = read_smaps(pid, rss, options.exact)
        trim = mlocked.trim_among(first[0])
    with (
        ProcessMemory(pid) as memory,
        meanwhile(lambda: first or read_smaps(pid, rss, options.exact)) as smaps_result,
    ):
        answer = heap.read(memory, target, sort=heap.VALIDATED, deadline_ns=deadline_ns, trim=trim)
        smaps, smaps_caveats = smaps_result()
    if first is not None:
        smaps_caveats += mlocked.caveats(answer, smaps)
    allocator, allocator_caveats = allocator_of(pid, target.mappings, answer.image)
    after = procfs.stillness(pid)
    procfs.same(target.process)
    data = heap.present(answer, target, rss_bytes=rss, smaps=smaps)
    consistency = answer.consistency_between(before, after)
    return Report(
        process=target.process,
        libc=answer.libc,
        allocator=allocator,
        method=Method("passive", 0, time.monotonic_ns() - started, consistency),
        data=data,
        caveats=allocator_caveats + smaps_caveats + heap.caveats(answer, data),
    )
