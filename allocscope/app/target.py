"""What is known of a process before its heap is read: who it is, what it has mapped, which C
library, which threads."""

from __future__ import annotations

from collections.abc import Sequence

from allocscope.errors import PermissionRefused, UnknownLayout
from allocscope.glibc.abi import of_machine
from allocscope.glibc.locate import Located, locate
from allocscope.glibc.protocols import Memory
from allocscope.glibc.threads import ThreadHead
from allocscope.immutable import immutable
from allocscope.model.libc import Libc, LibcImage
from allocscope.model.process import Mapping, Process
from allocscope.proc import cgroups, cpus, libc, procfs
from allocscope.proc.memory import PAGE_BYTES, robust_lists


@immutable
class Cpus:
    """What glibc's limit of arenas, and who judges it, must know. ``cgroup``: CPU time per time,
    None without a quota. ``online`` is None where nothing tells (a core)."""

    online: int | None
    cgroup: float | None


@immutable
class Target:
    """A process, looked at without touching its memory. ``environ`` is None where it may not be
    read."""

    process: Process
    mappings: tuple[Mapping, ...]
    images: tuple[LibcImage, ...]
    threads: tuple[ThreadHead, ...]
    environ: dict[str, str] | None
    cpus: Cpus

    @property
    def anonymous_spans(self) -> tuple[tuple[int, int], ...]:
        """Writable private anonymous mappings without stacks of the kernel's naming, ascending:
        where heaps can lie."""
        return tuple(
            (m.start, m.end) for m in self.mappings if m.anonymous and m.writable and m.readable
        )

    @property
    def brk_spans(self) -> tuple[tuple[int, int], ...]:
        """The [heap] mapping; in several pieces where protection or advice differ."""
        return tuple((m.start, m.end) for m in self.mappings if m.path == "[heap]")


def look(pid: int) -> Target:
    """Looks at ``pid``. NoSuchProcess, PermissionRefused, NoGlibcHeap (kernel thread, no glibc in
    it)."""
    process = procfs.identify(pid)
    mappings = procfs.mappings(pid)
    images = libc.require_glibc(process, libc.identify(pid, mappings))
    tasks = procfs.tasks(pid)
    heads = robust_lists([task.tid for task in tasks], images[0].machine)
    threads = tuple(
        ThreadHead(task.tid, task.comm, head) for task, head in zip(tasks, heads, strict=True)
    )
    try:
        environ: dict[str, str] | None = procfs.environ(pid)
    except PermissionRefused:
        environ = None
    machine = Cpus(cpus.online(), cgroups.cpu_quota(pid))
    return Target(process, mappings, images, threads, environ, machine)


def first_malloc(
    memory: Memory,
    images: Sequence[LibcImage],
    heap_spans: Sequence[tuple[int, int]],
    page_bytes: int,
) -> tuple[Located, LibcImage] | None:
    """The malloc in use: of all C libraries mapped, the first whose arenas validate and that has
    obtained memory, else the first that validates. ``heap_spans``: where the main heap may begin;
    ``page_bytes``: of the machine.
    """
    idle: tuple[Located, LibcImage] | None = None
    for image in images:
        abi = of_machine(image.machine, page_bytes)
        if abi is None:
            continue
        memory.abi = abi
        spans = [(m.start, m.end) for m in image.mappings if m.writable and m.private]
        found = locate(memory, spans, heap_spans)
        if found is None:
            continue
        if found.par.sbrk_base or found.arena_count > 1 or found.par.max_n_mmaps:
            return found, image
        idle = idle or (found, image)
    return idle


def find_malloc(memory: Memory, target: Target) -> tuple[Located, LibcImage]:
    """The malloc in use of a live process. UnknownLayout when there is none that can be read."""
    found = first_malloc(memory, target.images, target.brk_spans, PAGE_BYTES)
    if found is None:
        seen = ", ".join(
            f"{image.banner or 'glibc ' + (image.version or 'of unknown version')} ({image.path})"
            for image in target.images
        )
        raise UnknownLayout(
            f"process {target.process.pid} ({target.process.comm}) has {seen}, "
            "but none of the known malloc layouts fits its memory",
            f"`allocscope arenas {target.process.pid} --ask-glibc` lets glibc itself answer, in a "
            f"frozen copy, and `allocscope doctor {target.process.pid} --layout` tells what does "
            "not fit. If the process has only just started, its malloc may yet be set up: try "
            "again.",
        )
    return found


def libc_of(image: LibcImage, layout: str | None, safe_linking: bool | None) -> Libc:
    """What an answer says of the C library: its image, and what the memory showed of its malloc."""
    return Libc(
        kind=image.kind,
        version=image.version,
        banner=image.banner,
        path=image.path,
        build_id=image.build_id,
        layout=layout,
        safe_linking=safe_linking,
    )
