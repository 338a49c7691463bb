"""The part of ``doctor`` that looks at one process: can it be read, copied, asked?

Rules: only what the passive commands do is done (a few dozen KiB of the C library's data are read);
whether a snapshot would be allowed is forecast, not tried.
"""

from __future__ import annotations

from collections.abc import Iterator

from allocscope.app import doctor_leftovers
from allocscope.errors import AllocscopeError, MissingPart, NoGlibcHeap, PermissionRefused
from allocscope.model.checks import Check
from allocscope.model.process import Process
from allocscope.proc import procfs
from allocscope.render.text import plural

MAX_PAUSE_NS = 100_000_000
"""What ``--max-pause`` allows when it is not given."""
_SMAPS_NS_PER_GIB = 10_000_000
_SECCOMP = {1: "strict mode", 2: "a filter"}


def checks(process: Process) -> Iterator[Check]:
    """The findings about ``process``; one that goes away meanwhile raises NoSuchProcess."""
    heap = list(_heap(process.pid))
    yield from heap
    yield _smaps(process.pid)
    yield _seccomp(process.pid)
    yield doctor_leftovers.check(process.pid)
    if heap and all(check.status == "ok" for check in heap):
        yield _snapshot(process.pid)


def _heap(pid: int) -> Iterator[Check]:
    """Permission to read, and a glibc heap with a known layout."""
    try:
        from allocscope.app.target import find_malloc, look
        from allocscope.proc.memory import ProcessMemory

        target = look(pid)
        with ProcessMemory(pid) as memory:
            located, image = find_malloc(memory, target)
    except PermissionRefused as error:
        yield Check("read-permission", "missing", error.message, error.hint)
        return
    except MissingPart:
        return  # the native helper, of which another check has told already
    except NoGlibcHeap as error:
        yield Check("read-permission", "ok", f"process {pid} can be read", "")
        yield Check("glibc-heap", "missing", error.message, error.hint)
        return
    yield Check("read-permission", "ok", f"process {pid} can be read without stopping it", "")
    found = f"glibc {image.version or 'of unknown version'} ({image.path})"
    yield Check(
        "glibc-heap",
        "ok",
        f"{found}: layout {located.layout.name}, {plural(located.arena_count, 'arena')}",
        "",
    )


def _smaps(pid: int) -> Check:
    rss = procfs.rss_bytes(pid)
    milliseconds = rss * _SMAPS_NS_PER_GIB / (1 << 30) / 1e6
    if rss <= 1 << 30:
        return Check("smaps", "ok", f"cheap: RSS is {rss >> 20} MiB", "")
    return Check(
        "smaps",
        "degraded",
        f"RSS is {rss >> 20} MiB: reading smaps would keep the target from mapping memory for "
        f"about {milliseconds:.0f} ms, so private_dirty and lazyfree are left out",
        "--exact reads it all the same.",
    )


def _seccomp(pid: int) -> Check:
    mode = procfs.status(pid).seccomp
    if not mode:
        return Check("seccomp", "ok", "the target has no filter", "")
    return Check(
        "seccomp",
        "degraded",
        f"the target runs under {_SECCOMP.get(mode, 'seccomp')}, which could kill it for a call it "
        "does not expect: no snapshot, no ask",
        "What only reads works.",
    )


def _snapshot(pid: int) -> Check:
    from allocscope.act import forecast, vet

    try:
        vet.vet(pid)
        expected = forecast.forecast_of(pid)
        forecast.refuse(pid, expected, MAX_PAUSE_NS)
    except AllocscopeError as error:
        return Check("snapshot", "degraded", error.message, error.hint)
    return Check(
        "snapshot",
        "ok",
        f"would pause the target for about {expected.pause_ns / 1e6:.1f} ms (forecast)",
        "",
    )
