"""allocscope: why a Linux process holds more memory than its program believes, from outside.

The public API::

    from allocscope import observe
    report = observe(pid)          # reads only; nothing is stopped
    report.data.totals.free_resident_bytes

:func:`observe` returns a :class:`Report` of :class:`ArenasData`; every type it consists of is
exported here. Errors derive from :class:`AllocscopeError`; each carries the exit code of the
command line and a hint.
"""

from __future__ import annotations

from allocscope.errors import AllocscopeError
from allocscope.model.heap import (
    Arena,
    ArenasData,
    Figures,
    Heap,
    LargeFree,
    Mmapped,
    Overhead,
    PageHolder,
    Setting,
    Settings,
    SizeClass,
    ThreadCache,
)
from allocscope.model.report import Caveat, Method, Report

__all__ = [
    "AllocscopeError",
    "Arena",
    "ArenasData",
    "Caveat",
    "Figures",
    "Heap",
    "LargeFree",
    "Method",
    "Mmapped",
    "Overhead",
    "PageHolder",
    "Report",
    "Setting",
    "Settings",
    "SizeClass",
    "ThreadCache",
    "observe",
]


def observe(pid: int, *, exact: bool = False, deadline_s: float = 30.0) -> Report[ArenasData]:
    """Reads the malloc arenas of process ``pid`` without stopping it.

    ``exact``: read smaps even of a process above 1 GiB (it holds the target's mmap lock for about
    10 ms per GiB).
    ``deadline_s``: seconds; a busy target is read again within them until its arenas validate.
    Raises NoSuchProcess, PermissionRefused, NoGlibcHeap (all AllocscopeError)."""
    from allocscope.app.arenas import ArenasOptions, arenas

    return arenas(pid, ArenasOptions(exact=exact, deadline_s=deadline_s))
