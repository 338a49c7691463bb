"""/proc/PID: one function per file, each a single reading, parsed.

Rules: a process is its pid *and* its start time; whoever reads more than once calls :func:`same`
at the end. Every function raises NoSuchProcess when the process is gone, PermissionRefused when
the kernel refuses, and BadInput when the text is not what this kernel family prints. Reading maps,
stat, status and the like costs the target next to nothing; smaps holds its mmap lock while page
tables are walked, so it is asked for only where it is needed.
"""

from __future__ import annotations

import contextlib
import os

from allocscope.errors import AllocscopeError, MissingPart, NoGlibcHeap, NoSuchProcess
from allocscope.model.process import (
    AuxVector,
    Mapping,
    Process,
    ProcessStatus,
    SmapsEntry,
    SmapsRollup,
    Stillness,
    Task,
    TaskClock,
    TaskStat,
)
from allocscope.parse import auxv as auxv_text
from allocscope.parse import environ as environ_text
from allocscope.parse import maps as maps_text
from allocscope.parse import smaps as smaps_text
from allocscope.parse import stat as stat_text
from allocscope.parse import status as status_text
from allocscope.proc import refusal
from allocscope.proc.mapped import MappedFile, open_mapped_file

__all__ = [
    "MappedFile",
    "auxv",
    "environ",
    "exe",
    "identify",
    "mappings",
    "open_mapped_file",
    "parents",
    "rss_bytes",
    "same",
    "smaps",
    "smaps_rollup",
    "stat",
    "status",
    "stillness",
    "tasks",
]


def identify(pid: int) -> Process:
    """Who ``pid`` is.

    Raises NoSuchProcess (none of that number, a zombie, a thread's number), NoGlibcHeap (a kernel
    thread) and PermissionRefused (its executable may not be looked up, so nothing else of it may
    be read either).
    """
    found = stat(pid)
    if found.kernel_thread:
        raise NoGlibcHeap(
            f"{pid} ({found.comm}) is a kernel thread: a kernel thread has no heap",
            "Choose a user process. Kernel memory is in /proc/meminfo and /proc/slabinfo.",
        )
    if found.dead:
        raise _ended(found)
    leader = status(pid).tgid
    if leader is not None and leader != pid and not stat(leader).dead:
        raise NoSuchProcess(
            f"{pid} is a thread of process {leader}, not a process", f"Use {leader}."
        )
    return Process(
        pid=pid,
        start_ticks=found.start_ticks,
        comm=found.comm,
        exe=exe(pid),
        thread_count=found.thread_count,
        uptime_s=_uptime_s(found),
    )


def same(process: Process) -> None:
    """Checks that the process is still the one that was identified, and runs the same program.

    Raises NoSuchProcess when it ended, when its number was given to another, or when it called
    execve meanwhile.
    """
    pid = process.pid
    try:
        found = stat(pid)
        alive = found.start_ticks == process.start_ticks and not found.dead
        program = exe(pid) if alive else ""
    except NoSuchProcess as error:
        raise NoSuchProcess(f"process {pid} went away meanwhile") from error
    if not alive:
        raise NoSuchProcess(f"process {pid} went away meanwhile")
    if program.removesuffix(" (deleted)") != process.exe.removesuffix(" (deleted)"):
        raise NoSuchProcess(f"process {pid} started another program meanwhile", "Ask again.")


def stat(pid: int) -> TaskStat:
    """The one line of /proc/PID/stat, readable for everybody."""
    return stat_text.parse(_read(pid, "stat"))


def status(pid: int) -> ProcessStatus:
    """/proc/PID/status, readable for everybody."""
    return status_text.parse(_read(pid, "status"))


def mappings(pid: int) -> tuple[Mapping, ...]:
    """/proc/PID/maps in ascending order, never empty.

    The kernel hands it out a page at a time, so mappings made or removed meanwhile may be missing
    or stale.
    """
    return maps_text.parse(_read_memory_file(pid, "maps"))


def smaps(pid: int) -> tuple[SmapsEntry, ...]:
    """/proc/PID/smaps: about 10 ms per resident GiB, during which the target cannot map or unmap
    memory."""
    return smaps_text.parse(_read_memory_file(pid, "smaps"))


def smaps_rollup(pid: int) -> SmapsRollup:
    """/proc/PID/smaps_rollup: the sums, at the same cost to the target. Before Linux 4.14, where
    there is no such file, they are added up from smaps."""
    try:
        return smaps_text.rollup(_read_memory_file(pid, "smaps_rollup"))
    except MissingPart:
        return smaps_text.total(_read_memory_file(pid, "smaps"))


def parents() -> dict[int, int]:
    """The parent of every process that can be seen; one that ends meanwhile is left out."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(AllocscopeError):
                found[int(name)] = stat(int(name)).ppid
    return found


def rss_bytes(pid: int) -> int:
    """Resident bytes from /proc/PID/statm. The kernel counts per CPU, so this may lag by some
    pages per thread."""
    return int(_read(pid, "statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def environ(pid: int) -> dict[str, str]:
    """The malloc settings in the environment that the program was started with (see
    parse.environ).

    The one file here that the kernel copies out of the target's own memory: pages at the bottom of
    its stack, which execve wrote; should they be swapped out, this swaps them in."""
    return environ_text.parse(_read(pid, "environ"))


def auxv(pid: int) -> AuxVector:
    """The auxiliary vector of a 64-bit process."""
    return auxv_text.parse(_read_memory_file(pid, "auxv"))


def exe(pid: int) -> str:
    """The path of the program, as the kernel prints it; `` (deleted)`` at its end where it is
    gone."""
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError as error:
        raise refusal.translate(pid, "the executable", error) from error


def tasks(pid: int) -> tuple[Task, ...]:
    """All threads, by ascending tid. One that ends meanwhile is left out."""
    found = ((tid, _task_file(pid, tid, "stat")) for tid in _tids(pid))
    lines = ((tid, stat_text.parse(line)) for tid, line in found if line)
    return tuple(Task(tid, line.comm, line.state, line.start_ticks) for tid, line in lines)


def stillness(pid: int) -> Stillness:
    """What every thread is doing, with the scheduler's counters: to be compared with ``==`` to a
    later one."""
    clocks = []
    counted = True
    for tid in _tids(pid):
        line = _task_file(pid, tid, "stat")
        if not line:
            continue
        task = stat_text.parse(line)
        counters = _task_file(pid, tid, "schedstat").split()
        if len(counters) != 3:
            counted = False
            counters = [b"0", b"0", b"0"]
        clocks.append(
            TaskClock(tid, task.start_ticks, task.state, int(counters[0]), int(counters[2]))
        )
    return Stillness(tuple(clocks), counted)


def _tids(pid: int) -> list[int]:
    try:
        with os.scandir(f"/proc/{pid}/task") as entries:
            return sorted(int(entry.name) for entry in entries)
    except OSError as error:
        raise refusal.translate(pid, "the threads", error) from error


def _task_file(pid: int, tid: int, name: str) -> bytes:
    """A file of one thread; empty when the thread has ended, or this kernel has no such file."""
    try:
        with open(f"/proc/{pid}/task/{tid}/{name}", "rb", buffering=0) as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""
    except OSError as error:
        raise refusal.translate(pid, f"{name} of thread {tid}", error) from error


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise refusal.translate(pid, name, error) from error


def _read_memory_file(pid: int, name: str) -> bytes:
    """A file that is empty only where there is no memory: the process is ending, or of the
    kernel."""
    data = _read(pid, name)
    if not data:
        raise refusal.ended(pid)
    return data


def _ended(found: TaskStat) -> NoSuchProcess:
    pid = found.pid
    threads = [] if found.thread_count < 2 else [t.tid for t in tasks(pid) if t.tid != pid]
    if threads:
        return NoSuchProcess(
            f"the main thread of process {pid} ({found.comm}) has ended; its memory can only be "
            f"reached through one of the {len(threads)} threads that live on",
            f"Use {threads[0]}, the number of such a thread.",
        )
    return NoSuchProcess(
        f"process {pid} ({found.comm}) has ended: it is a zombie without any memory",
        f"Its parent, process {found.ppid}, has yet to collect its exit status.",
    )


def _uptime_s(found: TaskStat) -> float:
    """Seconds since the process was started."""
    with open("/proc/uptime", "rb") as file:
        now_s = float(file.read().split()[0])
    return max(0.0, now_s - found.start_ticks / os.sysconf("SC_CLK_TCK"))
