"""``record --snapshot``: the same recording, of a frozen copy, which a busy process needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from allocscope.act.snapshot import frozen
from allocscope.app import heap
from allocscope.app.record import Opened, Opener
from allocscope.app.target import Target
from allocscope.immutable import replace
from allocscope.proc import procfs
from allocscope.proc.memory import ProcessMemory


def snapshot(max_pause_ns: int) -> Opener:
    """Opens a frozen copy of the target, or raises Unsafe where that would stop it for longer than
    ``max_pause_ns``; MissingPart."""

    @contextlib.contextmanager
    def opened(target: Target, deadline_ns: int) -> Iterator[Opened]:
        pid = target.process.pid
        with (
            frozen(pid, max_pause_ns=max_pause_ns, deadline_ns=deadline_ns) as copy,
            ProcessMemory(copy.pid) as memory,
        ):
            copied = replace(target, mappings=procfs.mappings(copy.pid))
            yield Opened(memory, copied, "snapshot", heap.FROZEN, copy.pause_ns)

    return opened
