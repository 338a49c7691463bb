"""``doctor PID --layout``: what somebody needs who is to add a row to the layout table.

Rules: nothing is stopped; only the C library's own data is read, and what is told of it holds no
address and no content. A static program's data are its own too: there only what is around the
places that look like malloc's is told.
"""

from __future__ import annotations

import time

from allocscope.app.target import Target, look, table_for
from allocscope.glibc.abi import of_machine
from allocscope.glibc.examine import Scene, examine
from allocscope.glibc.words import Place
from allocscope.model.checks import Checkup, DoctorData
from allocscope.model.layout_report import LayoutReport, LibraryReport, MappedPart
from allocscope.model.libc import LibcImage
from allocscope.proc import procfs
from allocscope.proc.memory import PAGE_BYTES, ProcessMemory


def doctor_layout(pid: int) -> Checkup:
    """The layout report of process ``pid``.

    Raises NoSuchProcess (3), PermissionRefused (4), NoGlibcHeap (5: there is no glibc in it)."""
    started = time.monotonic_ns()
    target = look(pid)
    with ProcessMemory(pid) as memory:
        libraries = tuple(_library(memory, target, image) for image in target.images)
    procfs.same(target.process)
    report = LayoutReport(len(target.threads), libraries)
    return Checkup(target.process, DoctorData((), report), time.monotonic_ns() - started)


def _library(memory: ProcessMemory, target: Target, image: LibcImage) -> LibraryReport:
    memory.abi = of_machine(image.machine, PAGE_BYTES) or memory.abi
    base = image.mappings[0].start
    writable = [m for m in image.mappings if m.writable and m.private]
    scene = Scene(
        memory=memory,
        base=base,
        spans=[(m.start, m.end) for m in writable],
        initialised=[(m.start, m.end) for m in writable if m.inode and not image.static],
        heap_spans=target.brk_spans,
        anonymous_spans=target.anonymous_spans,
        threads=target.threads,
        places=_places(target, image, memory.abi.heap_max_bytes),
        table=table_for(image, memory.abi),
    )
    rows, words = examine(scene)
    return LibraryReport(
        path=image.path,
        version=image.version,
        banner=image.banner,
        build_id=image.build_id,
        static=image.static,
        evidence=image.evidence,
        parts=tuple(
            MappedPart(m.start - base, m.size_bytes, m.perms, bool(m.inode)) for m in image.mappings
        ),
        rows=rows,
        words=words,
    )


def _places(target: Target, image: LibcImage, heap_max_bytes: int) -> tuple[Place, ...]:
    """Names for everything that is mapped. Heaps of threads begin at multiples of their largest
    size, so the offset in anonymous memory counts from there."""
    own = {m.start for m in image.mappings}
    base = image.mappings[0].start
    heap = min((start for start, _ in target.brk_spans), default=0)
    places = []
    for m in target.mappings:
        if m.start in own and "x" in m.perms:
            places.append(Place(m.start, m.end, "the library's code", None))
        elif m.start in own:
            places.append(Place(m.start, m.end, "library", base))
        elif m.path == "[heap]":
            places.append(Place(m.start, m.end, "heap", heap))
        elif m.anonymous and not m.path.startswith("[stack"):
            aligned = m.start // heap_max_bytes * heap_max_bytes
            places.append(Place(m.start, m.end, "anonymous", aligned))
        elif m.path.startswith("["):
            places.append(Place(m.start, m.end, "stack or kernel", m.start))
        else:
            places.append(Place(m.start, m.end, "another file", None))
    return tuple(places)
