"""A process as the kernel describes it."""

from __future__ import annotations

from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX


@immutable
class Mapping:
    """One line of /proc/PID/maps: ``[start, end)``; ``path`` is "" for anonymous memory, as the
    kernel prints it otherwise."""

    start: int = field(metadata=HEX)
    end: int = field(metadata=HEX)
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

    @property
    def hugetlb(self) -> bool:
        """Private memory of hugetlb pages, which the kernel names like a file of its own."""
        return self.path.startswith("/anon_hugepage") and self.private


@immutable
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


@immutable
class Process:
    """Who the target is: identity is pid plus start time (clock ticks after boot, field 22 of
    stat). A core does not tell when its process started, nor for how long it ran."""

    pid: int
    start_ticks: int | None
    comm: str
    exe: str
    thread_count: int
    uptime_s: float | None


@immutable
class ProcessStatus:
    """The lines of /proc/PID/status that matter here; sizes in bytes, None where the kernel prints
    none.

    ``state``: one letter. ``uid``: the effective one. ``ns_pid``: its pid in each pid namespace,
    outermost first. ``tgid``: the process that this task is a thread of. ``cpus_allowed``: a list
    such as ``0-3,8``. ``comm``: the name. ``ppid``: the parent, 0 outside of our pid namespace."""

    state: str
    tracer_pid: int
    uid: int
    rss_bytes: int | None
    peak_rss_bytes: int | None
    page_table_bytes: int | None
    swap_bytes: int | None
    locked_bytes: int | None
    seccomp: int
    ns_pid: tuple[int, ...]
    shadow_stack: bool
    tgid: int | None = None
    cpus_allowed: str | None = None
    effective_capabilities: int | None = None
    comm: str = ""
    ppid: int | None = None
    hugetlb_bytes: int | None = None


@immutable
class TaskStat:
    """One line of stat. ``state`` is the kernel's letter (R, S, D, T, t, Z, X, I, …);
    ``start_ticks``: clock ticks after boot; ``flags``: the PF_ flags of the kernel's sched.h;
    ``minor_fault_count``: of all threads of a process, of those that ended too."""

    pid: int
    comm: str
    state: str
    ppid: int
    flags: int
    minor_fault_count: int
    thread_count: int
    start_ticks: int

    @property
    def kernel_thread(self) -> bool:
        """PF_KTHREAD: a thread of the kernel, without user memory."""
        return bool(self.flags & 0x00200000)

    @property
    def dead(self) -> bool:
        """A zombie, or about to vanish: its memory is gone."""
        return self.state in "ZXx"


@immutable
class Task:
    """One thread. ``start_ticks`` tells it apart from a later one with the same tid."""

    tid: int
    comm: str
    state: str
    start_ticks: int


@immutable
class TaskClock:
    """What shows whether a thread ran: the scheduler's own counters
    (/proc/PID/task/TID/schedstat)."""

    tid: int
    start_ticks: int
    state: str
    ran_ns: int
    timeslice_count: int


@immutable
class Stillness:
    """Every thread of a process at one instant. Two equal ones, both ``all_sleeping``, taken
    before and after a reading, say that no thread ran in between; ``counted`` is False on a kernel
    without schedstat, where nothing can be said."""

    tasks: tuple[TaskClock, ...]
    counted: bool

    @property
    def all_sleeping(self) -> bool:
        """No thread is running or ready to run: all sleep, wait, or are stopped."""
        return self.counted and all(task.state in "SDTt" for task in self.tasks)


@immutable
class SmapsRollup:
    """/proc/PID/smaps_rollup, in bytes; None where this kernel prints no such line."""

    rss_bytes: int
    pss_bytes: int
    pss_anon_bytes: int | None
    pss_file_bytes: int | None
    pss_shmem_bytes: int | None
    shared_clean_bytes: int
    shared_dirty_bytes: int
    private_clean_bytes: int
    private_dirty_bytes: int
    anonymous_bytes: int | None
    lazyfree_bytes: int | None
    anon_huge_bytes: int | None
    swap_bytes: int | None
    swap_pss_bytes: int | None
    locked_bytes: int | None


@immutable
class AuxVector:
    """The entries of /proc/PID/auxv that matter here. ``base``: where the loader was mapped, 0 in
    a static program; ``phdr``, ``phnum``: the program headers of the executable in memory;
    ``secure``: set-id or similar, so that glibc ignored its environment."""

    base: int = field(metadata=HEX)
    phdr: int = field(metadata=HEX)
    phnum: int
    entry: int = field(metadata=HEX)
    page_bytes: int
    secure: bool


@immutable
class SwapArea:
    """``compressed``: it is memory itself, in which pages lie compressed (zram)."""

    path: str
    compressed: bool


@immutable
class Swapping:
    """Where this machine swaps to. ``zswap``: pages may stay compressed in memory on their way."""

    areas: tuple[SwapArea, ...]
    zswap: bool


@immutable
class Stalls:
    """Shares of the last 10 and 60 seconds in which some tasks, or all at once, waited for memory
    (PSI). None where this kernel does not tell."""

    some_10s_ratio: float
    some_60s_ratio: float
    full_10s_ratio: float | None
    full_60s_ratio: float | None


@immutable
class Pressure:
    """How short of memory the machine and the process's control group are. ``system`` and
    ``cgroup`` are None without PSI there. ``oom_kill_count``: processes of the group that the
    kernel killed for memory, ``refault_count``: pages that came back after they had been taken,
    both since the group was made; None where the group does not tell."""

    system: Stalls | None
    cgroup: Stalls | None
    oom_kill_count: int | None
    refault_count: int | None


@immutable
class DescriptorUse:
    """``limit_count``: how many it may have (soft limit), None without one. ``alike``: the file
    that most descriptors are of, with how many; "" for none. ``half_closed_count``: TCP connections
    that the other side has closed and this one has not; None where the kernel does not tell."""

    count: int
    limit_count: int | None
    alike: str
    alike_count: int
    half_closed_count: int | None


@immutable
class CachedFile:
    """A file that a process has mapped. ``mapped_bytes``: its pages in the process's RSS, without
    copies; ``cached_bytes``: all that the page cache holds of it, ``dirty_bytes`` of that has to be
    written to disk before it can be dropped."""

    path: str
    mapped_bytes: int
    cached_bytes: int
    dirty_bytes: int


@immutable
class CgroupMemory:
    """What a control group is charged with, those below it included, by kind; None where this
    version or kernel does not tell. ``path``: its directory. ``file_bytes``: page cache without
    shared memory; ``slab_reclaimable_bytes``: mostly dentries and inodes of files that were looked
    up; ``kernel_bytes``: all that is the kernel's, slab included; ``zswap_bytes``: what swapped
    pages take while they lie compressed in memory, ``zswapped_bytes`` what they were before.
    ``reclaimable_bytes``: page cache in use or not, and reclaimable slab: what the kernel can take
    without swapping."""

    path: str
    usage_bytes: int
    anonymous_bytes: int | None
    file_bytes: int | None
    shared_bytes: int | None
    kernel_bytes: int | None
    slab_reclaimable_bytes: int | None
    slab_unreclaimable_bytes: int | None
    socket_bytes: int | None
    zswap_bytes: int | None
    zswapped_bytes: int | None
    reclaimable_bytes: int | None


@immutable
class CgroupLimits:
    """What the control groups of a process allow it, each the tightest on the way up to the root
    that can be seen.

    ``cpus``: CPU time per time, None without a quota. ``memory_limit_bytes``: None without a
    limit. ``memory_usage_bytes``: of its own group, page cache included.
    ``memory_headroom_bytes``: the least that any of those groups can still grow before the kernel
    has to kill, page cache given up; None without a limit. ``cpu_path`` and ``memory_path``: the
    directory that sets the tightest limit, or the process's own, None where it cannot be seen."""

    cpus: float | None
    cpu_path: str | None
    memory_limit_bytes: int | None
    memory_usage_bytes: int | None
    memory_headroom_bytes: int | None
    memory_path: str | None
