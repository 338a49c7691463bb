"""A process as the kernel describes it."""

from __future__ import annotations

import dataclasses

from allocscope.model.fields import address


@dataclasses.dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/PID/maps: ``[start, end)``; ``path`` is "" for anonymous memory, as the kernel prints it otherwise."""

    start: int = address()
    end: int = address()
    perms: str
    offset: int
    device: str
    inode: int
    path: str

    @property
    def size_bytes(self) -> int:
        return self.end - self.start

    @property
    def readable(self) -> bool:
        return self.perms[0] == "r"

    @property
    def writable(self) -> bool:
        return self.perms[1] == "w"

    @property
    def private(self) -> bool:
        return self.perms[3] == "p"

    @property
    def anonymous(self) -> bool:
        """Private memory without a file behind it: "", [heap], [stack], [anon:…]."""
        return self.inode == 0 and self.private


@dataclasses.dataclass(frozen=True, slots=True)
class SmapsEntry:
    """The figures of one mapping in /proc/PID/smaps, in bytes."""

    mapping: Mapping
    rss_bytes: int
    private_dirty_bytes: int
    private_clean_bytes: int
    lazyfree_bytes: int
    swap_bytes: int
    anonymous_bytes: int
    anon_huge_bytes: int
    locked_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """Who the target is: identity is pid plus start time (clock ticks after boot, field 22 of stat)."""

    pid: int
    start_ticks: int
    comm: str
    exe: str
    thread_count: int
    uptime_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class ProcessStatus:
    """The lines of /proc/PID/status that matter here; sizes in bytes, None where the kernel prints none."""

    state: str
    tracer_pid: int
    uid: int
    rss_bytes: int | None
    peak_rss_bytes: int | None
    page_table_bytes: int | None
    swap_bytes: int | None
    seccomp: int
    ns_pid: tuple[int, ...]
    shadow_stack: bool
