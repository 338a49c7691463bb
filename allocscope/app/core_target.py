"""What a core tells of the process it was, in the form of a Target.

Strategy: mappings come from the segments, paths and threads from the notes. Which mapping is the
brk heap only glibc's own ``mp_.sbrk_base`` tells, so malloc is looked for first, in the writable
data of each mapped file, libc's before all others, and last in all small anonymous memory. The
version and the build-id are for display; they come from the library's file where that very file
(by its build-id) is on this machine too.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from allocscope.app.same_files import build_id_in
from allocscope.app.target import MALLOC_DEBUG, Cpus, Target, first_malloc
from allocscope.errors import BadInput, NoGlibcHeap
from allocscope.files.core import Core
from allocscope.files.unpack import open_plain
from allocscope.glibc.locate import Located
from allocscope.glibc.threads import ThreadHead
from allocscope.immutable import immutable, replace
from allocscope.model.libc import I386, LibcImage
from allocscope.model.process import Mapping, Process
from allocscope.model.report import Caveat
from allocscope.parse import banner, elf

_LIBC = re.compile(r"/libc(\.so\.6|-(2\.\d+)\.so)( \(deleted\))?$")
_IS_MALLOC = re.compile(rf"{_LIBC.pattern}|/{MALLOC_DEBUG}[.]so")
_MOST_DATA_BYTES = 4 << 20
_MOST_SEARCHED_BYTES = 64 << 20
_MOST_FILE_BYTES = 64 << 20


@immutable
class CoreTarget:
    """The process of a core, and its malloc. ``program``: its path as the core has it, "" where
    that is not told."""

    target: Target
    program: str
    located: Located
    image: LibcImage
    caveats: tuple[Caveat, ...]


def look_at(core: Core, exe: Path | None) -> CoreTarget:
    """The process of ``core``. ``exe``: the program as the user names it.

    Raises NoGlibcHeap, and BadInput for an ``exe`` that is no ELF file."""
    mappings = core.mappings()
    images = tuple(_images(mappings, core.machine))
    anonymous = [(m.start, m.end) for m in mappings if (m.anonymous or m.hugetlb) and m.writable]
    found = first_malloc(core, images, anonymous, page_bytes=core.notes.page_bytes)
    if found is None:
        raise _no_malloc(core, images)
    located, image = found
    if not located.layout.heaps_on_hugetlb(located.par.hp_pagesize):
        mappings = _with_heap_named(mappings, located.par.sbrk_base)
    program = _program(core, mappings)
    caveats: tuple[Caveat, ...] = ()
    if exe is not None:
        caveats = _compared(core, program, exe)
    path = program[0].path if program else ""
    notes = core.notes
    process = Process(
        pid=notes.pid,
        start_ticks=None,
        comm=notes.comm,
        exe=str(exe) if exe is not None else path,
        thread_count=len(notes.threads),
        uptime_s=None,
    )
    threads = tuple(
        ThreadHead(t.tid, notes.comm if t.tid == notes.pid else "", 0, t.thread_pointer)
        for t in notes.threads
    )
    libcs = tuple(image for image in images if _IS_MALLOC.search(image.path))
    target = Target(process, mappings, libcs, threads, None, Cpus(None, None))
    return CoreTarget(target, path, located, _named(core, image), caveats)


# ---- which memory is which ----


def _images(mappings: Sequence[Mapping], machine: str) -> Iterable[LibcImage]:
    """Everything that may hold a malloc's data, the likeliest first."""
    groups = list(_loaded(mappings))
    for group in sorted(groups, key=lambda group: _LIBC.search(group[0].path) is None):
        if any(m.writable for m in group):
            yield _image(group[0].path, group, machine)
    left = _MOST_SEARCHED_BYTES
    small = []
    for mapping in mappings:
        if mapping.anonymous and mapping.writable and mapping.size_bytes <= _MOST_DATA_BYTES:
            left -= mapping.size_bytes
            if left >= 0:
                small.append(mapping)
    yield _image("", small, machine)


def _loaded(mappings: Sequence[Mapping]) -> Iterable[list[Mapping]]:
    """The mappings of each file, as often as it is loaded (a second time by dlmopen): offsets rise
    within one. The highest first, which was loaded first."""
    groups: dict[str, list[list[Mapping]]] = {}
    for mapping in mappings:
        if not mapping.inode or mapping.hugetlb:
            continue
        loads = groups.setdefault(mapping.path, [])
        if not loads or mapping.offset < loads[-1][-1].offset:
            loads.append([])
        loads[-1].append(mapping)
    found = [group for loads in groups.values() for group in loads]
    return sorted(found, key=lambda group: -group[0].start)


def _image(path: str, mappings: Sequence[Mapping], machine: str) -> LibcImage:
    named = _LIBC.search(path)
    return LibcImage(
        kind="glibc",
        path=path,
        mappings=tuple(mappings),
        load_bias=None,
        version=named[2] if named else None,
        banner=None,
        build_id=None,
        file_readable=False,
        static=False,
        bits=32 if machine == I386 else 64,
        evidence="the arenas in its data",
        machine=machine,
    )


def _with_heap_named(mappings: Sequence[Mapping], sbrk_base: int) -> tuple[Mapping, ...]:
    """The mappings with the kernel's name for those that sbrk made."""
    named = []
    end = 0
    for mapping in mappings:
        begins = mapping.start <= sbrk_base < mapping.end
        if mapping.anonymous and mapping.writable and (begins or mapping.start == end):
            end = mapping.end
            mapping = replace(mapping, path="[heap]")
        named.append(mapping)
    return tuple(named)


def _program(core: Core, mappings: Sequence[Mapping]) -> tuple[Mapping, ...]:
    """The mappings of the file that the program's entry lies in."""
    entry = core.notes.entry
    files = [file for file in core.notes.files if file.start <= entry < file.end]
    return tuple(m for m in mappings if m.inode and files and m.path == files[0].path)


def _no_malloc(core: Core, images: Sequence[LibcImage]) -> NoGlibcHeap:
    libcs = [image for image in images if _LIBC.search(image.path)]
    data = [m for image in libcs for m in image.mappings if m.writable]
    if data and not any(core.runs(m.start, m.end) for m in data):
        return NoGlibcHeap(
            f"{core.label} does not hold the data of {libcs[0].path}, where malloc's arenas begin",
            "The process's coredump_filter must have bits 0 and 1 (private memory) set.",
        )
    where = f" in {libcs[0].path}" if libcs else ""
    return NoGlibcHeap(
        f"{core.label} holds no glibc malloc{where} that one of the known layouts fits",
        "Another C library or allocator, or a glibc that allocscope does not know yet.",
    )


# ---- names, for display ----


def _file(path: Path) -> bytes:
    """The content of a file on this machine. BadInput."""
    with open_plain(path, 0) as file:
        return file.read(_MOST_FILE_BYTES)


def _build_id_of(content: bytes) -> str | None:
    return elf.build_id(elf.from_file(lambda at, size: content[at : at + size]))


def _named(core: Core, image: LibcImage) -> LibcImage:
    """The image with its build-id, and with the version from its file where that is here."""
    build_id = build_id_in(core, image.mappings[0]) if image.mappings else None
    said = None
    if build_id is not None and image.path:
        with contextlib.suppress(BadInput):
            content = _file(Path(image.path))
            said = banner.find(content) if _build_id_of(content) == build_id else None
    return replace(
        image,
        build_id=build_id,
        version=said.version if said else image.version,
        banner=said.text if said else None,
    )


def _compared(core: Core, program: Sequence[Mapping], exe: Path) -> tuple[Caveat, ...]:
    """Is ``exe`` the program that the core is of?"""
    theirs = _build_id_of(_file(exe))
    ours = build_id_in(core, program[0]) if program else None
    if theirs is None or ours is None or theirs == ours:
        return ()
    text = f"{exe} is not the program of this core: its build-id is {theirs}, the core's {ours}."
    return (Caveat("exe-differs", text),)
