"""Pages one by one, through their frames: which of them are held by MADV_FREE.

Rule: /proc/kpageflags and the frame numbers in pagemap are for CAP_SYS_ADMIN in the initial user
namespace; without them nothing is guessed, :meth:`FrameFlags.open_if_allowed` says None.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from allocscope.closing import Closing
from allocscope.native import ffi, lib
from allocscope.native.memory import failure
from allocscope.proc import features
from allocscope.proc.memory import ProcessMemory

Span = tuple[int, int]
RUNS = 1 << 15
"""At most so many in one call: what a quarter of a GiB can have, every other page."""


class FrameFlags(Closing):
    """An open /proc/kpageflags."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def open_if_allowed(cls) -> FrameFlags | None:
        """None where this user may not see frames, or the kernel has no kpageflags."""
        if not features.shows_page_frames():
            return None
        try:
            return cls(os.open("/proc/kpageflags", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return None

    def close(self) -> None:
        os.close(self._descriptor)

    def lazy_runs(self, memory: ProcessMemory, start: int, end: int) -> Iterator[list[Span]]:
        """The pages of ``[start, end)`` held by MADV_FREE, those included that were written to
        since and that the kernel has not looked at again; a batch of runs at a time, each as
        fresh as its arrival.

        Raises NoSuchProcess, PermissionRefused."""
        out = ffi.new("as_run[]", RUNS)
        count, resume = ffi.new("size_t *"), ffi.new("uint64_t *")
        while start < end:
            code = lib.as_lazy_runs(
                memory.source, self._descriptor, start, end, out, RUNS, count, resume
            )
            if code:
                raise failure(code, memory.label, "reading page frames")
            yield [(out[i].start, out[i].end) for i in range(count[0])]
            start = resume[0]


def native_runs(spans: Sequence[Span]) -> Any:
    """The spans as an ``as_run[]``."""
    return ffi.new("as_run[]", [(start, end, lib.AS_PRESENT) for start, end in spans])
