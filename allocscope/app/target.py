"""What is known of a process before its heap is read: who it is, what it has mapped, which C
library, which threads."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from allocscope.errors import PermissionRefused, UnknownLayout
from allocscope.glibc.abi import Abi, of_machine
from allocscope.glibc.layouts import Layout, malloc_debug_rows_of, rows_of
from allocscope.glibc.locate import Located, locate
from allocscope.glibc.protocols import Memory
from allocscope.glibc.states import InvalidHeap, read_ring
from allocscope.glibc.threads import ThreadHead
from allocscope.immutable import immutable
from allocscope.model.libc import X86_64, Libc, LibcImage
from allocscope.model.process import Mapping, Process
from allocscope.proc import cgroups, cpus, libc, procfs
from allocscope.proc.memory import PAGE_BYTES, robust_lists

MALLOC_DEBUG = "libc_malloc_debug"
"""A library of glibc's with a malloc of its own, which serves the program when it is preloaded and
its checks are switched on (2.34)."""


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
            (m.start, m.end)
            for m in self.mappings
            if (m.anonymous or m.hugetlb) and m.writable and m.readable
        )

    @property
    def hugetlb_spans(self) -> tuple[tuple[int, int], ...]:
        """Those of them that are of hugetlb pages."""
        return tuple((m.start, m.end) for m in self.mappings if m.hugetlb and m.writable)

    @property
    def brk_spans(self) -> tuple[tuple[int, int], ...]:
        """The [heap] mapping; in several pieces where protection or advice differ."""
        return tuple((m.start, m.end) for m in self.mappings if m.path == "[heap]")


def look(pid: int, *, without_glibc: bool = False) -> Target:
    """Looks at ``pid``. NoSuchProcess, PermissionRefused, NoGlibcHeap (kernel thread; no glibc in
    it, unless ``without_glibc`` allows that)."""
    process = procfs.identify(pid)
    mappings = procfs.mappings(pid)
    images = libc.identify(pid, mappings)
    if not without_glibc:
        images = libc.require_glibc(process, images)
    tasks = procfs.tasks(pid)
    heads = robust_lists([task.tid for task in tasks], images[0].machine if images else X86_64)
    threads = tuple(
        ThreadHead(task.tid, task.comm, head) for task, head in zip(tasks, heads, strict=True)
    )
    try:
        environ: dict[str, str] | None = procfs.environ(pid)
    except PermissionRefused:
        environ = None
    machine = Cpus(cpus.online(), cgroups.cpu_quota(pid))
    return Target(process, mappings, images, threads, environ, machine)


@immutable
class OtherMalloc:
    """A malloc in use beside the one that is read: that of a library in a namespace of its own, or
    of libc_malloc_debug, and where it lies. Bytes obtained from the kernel by its arenas, and its
    chunks with mappings of their own."""

    located: Located
    image: LibcImage
    arena_count: int
    system_bytes: int
    mmapped_count: int
    mmapped_bytes: int


def other_mallocs(memory: Memory, target: Target, chosen: LibcImage) -> tuple[OtherMalloc, ...]:
    """All mallocs in use but that of ``chosen``."""
    found = []
    for image in target.images:
        if image.mappings[0].start == chosen.mappings[0].start:
            continue
        located = _located(memory, image, (target.brk_spans, target.anonymous_spans))
        if located is None or not _in_use(located):
            continue
        with contextlib.suppress(InvalidHeap):
            arenas = read_ring(memory, located.main_arena, located.layout.state)
            found.append(
                OtherMalloc(
                    located=located,
                    image=image,
                    arena_count=len(arenas),
                    system_bytes=sum(arena.system_bytes for arena in arenas),
                    mmapped_count=located.par.n_mmaps,
                    mmapped_bytes=located.par.mmapped_mem,
                )
            )
    return tuple(found)


def _located(
    memory: Memory, image: LibcImage, heap_spans: Sequence[Sequence[tuple[int, int]]]
) -> Located | None:
    """The malloc of one library. ``heap_spans``: as for first_malloc."""
    spans = [(m.start, m.end) for m in image.mappings if m.writable and m.private]
    table = table_for(image, memory.abi)
    attempts = (locate(memory, spans, places, table) for places in heap_spans)
    return next((attempt for attempt in attempts if attempt is not None), None)


def table_for(image: LibcImage, abi: Abi) -> tuple[Layout, ...]:
    """The layouts that are tried for a library."""
    return malloc_debug_rows_of(abi) if MALLOC_DEBUG in image.path else rows_of(abi)


def _in_use(located: Located) -> bool:
    par = located.par
    return bool(par.sbrk_base or located.arena_count > 1 or par.max_n_mmaps)


def first_malloc(
    memory: Memory,
    images: Sequence[LibcImage],
    *heap_spans: Sequence[tuple[int, int]],
    page_bytes: int,
) -> tuple[Located, LibcImage] | None:
    """The malloc in use: of all C libraries mapped, libc_malloc_debug before the others, the first
    whose arenas validate and that has obtained memory, else the first that validates.
    ``heap_spans``: where the main heap may begin, the likeliest places first (without brk, as with
    hugetlb pages, it begins in a mapping); ``page_bytes``: of the machine."""
    idle: tuple[Located, LibcImage] | None = None
    for image in sorted(images, key=lambda image: MALLOC_DEBUG not in image.path):
        abi = of_machine(image.machine, page_bytes)
        if abi is None:
            continue
        memory.abi = abi
        found = _located(memory, image, heap_spans)
        if found is None:
            continue
        if _in_use(found):
            return found, image
        idle = idle or (found, image)
    return idle


def find_malloc(memory: Memory, target: Target) -> tuple[Located, LibcImage]:
    """The malloc in use of a live process. UnknownLayout when there is none that can be read."""
    found = first_malloc(
        memory,
        target.images,
        target.brk_spans,
        target.anonymous_spans,
        page_bytes=PAGE_BYTES,
    )
    if found is None:
        away = _swapped(memory, target.images)
        if away:
            raise _swapped_out(target.process, away)
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


def _swapped(memory: Memory, images: Sequence[LibcImage]) -> int:
    """Bytes of the C libraries' variables that are on a swap device."""
    variables = [m for image in images for m in image.mappings if "w" in m.perms]
    return sum(memory.residency(m.start, m.end).swapped_bytes for m in variables)


def _swapped_out(process: Process, away_bytes: int) -> UnknownLayout:
    from allocscope.units import size

    return UnknownLayout(
        f"process {process.pid} ({process.comm}) has {size(away_bytes)} of its C library's "
        "variables swapped out, malloc's among them; they are not read, because that would swap "
        "them in",
        f"`allocscope map {process.pid}` and `allocscope footprint {process.pid}` tell what is "
        f"swapped out; `allocscope arenas {process.pid} --ask-glibc` lets glibc answer in a frozen "
        "copy, which swaps in for itself. Once the process has allocated again, it can be read.",
    )


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
