"""Which C library a process has: found in its mappings, named from its file, or from memory where
the file is gone.

Strategy: a library of a known name comes first; then, in a static program, the marks that malloc
leaves in its read-only data; last, in a dynamic program with a renamed C library, the DT_SONAME of
each mapped library. A process can hold several (dlmopen, a static program that loads modules): all
are returned, the likeliest first, and whoever reads ``main_arena`` finds out which one is in use.

Rules: nothing is concluded from a name alone where the content can be seen; version, banner and
build-id are for display. The paths are the target's choice and are never trusted (see mapped.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

from allocscope.errors import BadInput, NoGlibcHeap
from allocscope.model.libc import OTHER, X86_64, LibcImage
from allocscope.model.process import Mapping, Process
from allocscope.parse import banner, elf, sonames
from allocscope.proc import refusal
from allocscope.proc.mapped import MappedFile, open_mapped_file

_BLOCK_BYTES = 1 << 20
_MOST_SEARCHED_BYTES = 256 << 20
_MOST_LIBRARIES = 400
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

MemoryRead = Callable[[int, int], bytes]
"""``read(address, size)`` of the target: up to ``size`` bytes, fewer or none where pages are not
present."""


def identify(
    pid: int, mappings: tuple[Mapping, ...], memory_read: MemoryRead | None = None
) -> tuple[LibcImage, ...]:
    """The C libraries of ``pid``, the likeliest first; empty only when it has no program mapped at
    all.

    ``memory_read`` is used for nothing but a file that cannot be opened any more. Raises
    NoSuchProcess and PermissionRefused.
    """
    found = [
        _library(pid, mappings, group, "glibc", memory_read)
        for group in _loaded(mappings, sonames.is_glibc)
    ]
    found += [  # it brings a malloc of its own, which serves the program once it is preloaded
        _library(pid, mappings, group, "glibc", memory_read)
        for group in _loaded(mappings, sonames.is_malloc_debug)
    ]
    found += [
        _library(pid, mappings, group, "musl", memory_read)
        for group in _loaded(mappings, sonames.is_musl)
    ]
    program = _program(pid, mappings)
    own = _static_program(pid, mappings, program, memory_read) if program else None
    if own is not None and own.kind == "glibc":
        return (own, *found)
    if not found:
        found = list(_by_soname(pid, mappings, memory_read))
    if not found and own is not None:
        found = [own]
    if not found and program:
        found = [_library(pid, mappings, program, "unknown", memory_read)]
    return tuple(found)


def require_glibc(process: Process, images: tuple[LibcImage, ...]) -> tuple[LibcImage, ...]:
    """The candidates that may hold a glibc heap that allocscope reads.

    Raises NoGlibcHeap, saying what is there instead.
    """
    usable = tuple(i for i in images if i.kind == "glibc" and i.machine != OTHER)
    if usable:
        return usable
    subject = f"process {process.pid} ({process.comm})"
    hint = "allocscope reads heaps of glibc malloc; this allocator may have tools of its own."
    kinds = {image.kind: image for image in images}
    if any(image.kind == "glibc" for image in images):
        message = f"{subject} is a program for a machine that allocscope does not know"
        hint = "It reads heaps of x86-64, i386 and aarch64."
    elif "musl" in kinds:
        name = " ".join(filter(None, ("musl", kinds["musl"].version)))
        message = f"{subject} uses {name}, whose malloc has no arenas to read"
    elif "go" in kinds:
        message = f"{subject} is a Go program: its heap is that of the Go runtime"
        hint = (
            f"`allocscope map {process.pid}` shows it, with all else that is mapped; Go's own "
            "tools are net/http/pprof and GODEBUG=gctrace=1."
        )
    elif any(image.static for image in images):
        message = f"{subject} is a static program without a trace of glibc's malloc"
    else:
        message = f"{subject} has no C library that allocscope knows"
        hint = "If it has only just started, its C library may yet be loaded: try again."
    raise NoGlibcHeap(message, hint)


def _loaded(
    mappings: tuple[Mapping, ...], wanted: Callable[[str], bool]
) -> Iterator[tuple[Mapping, ...]]:
    """The mappings of each loaded library whose path is wanted.

    dlmopen loads one file several times. The one at the highest addresses comes first: the kernel
    places mappings downward, so it was loaded first.
    """
    paths = {path for path in {m.path for m in mappings if m.inode} if wanted(path)}
    groups: list[list[Mapping]] = []
    for mapping in mappings:
        if mapping.path in paths:
            if not groups or mapping.offset == 0 or groups[-1][-1].inode != mapping.inode:
                groups.append([])
            groups[-1].append(mapping)
    for group in reversed(groups):
        if any("x" in mapping.perms for mapping in group):
            yield tuple(group)


def _program(pid: int, mappings: tuple[Mapping, ...]) -> tuple[Mapping, ...]:
    """The mappings of the executable file: maps and the exe link print its path alike, but for
    newlines."""
    try:
        path = os.readlink(f"/proc/{pid}/exe").replace("\n", "\\012")
    except OSError as error:
        raise refusal.translate(pid, "the executable", error) from error
    return tuple(mapping for mapping in mappings if mapping.inode and mapping.path == path)


def _by_soname(
    pid: int, mappings: tuple[Mapping, ...], memory_read: MemoryRead | None
) -> Iterator[LibcImage]:
    """glibc under another file name: the library that calls itself libc.so.6."""
    code = dict.fromkeys(m.path for m in mappings if m.inode and "x" in m.perms)
    for path in list(code)[:_MOST_LIBRARIES]:
        for group in _loaded(mappings, path.__eq__):
            with _opened(pid, group, memory_read) as (_, image):
                named = image is not None and b"libc.so.6" in elf.names(image, elf.DT_SONAME)
            if named:
                yield _library(pid, mappings, group, "glibc", memory_read)


def _static_program(
    pid: int,
    mappings: tuple[Mapping, ...],
    group: tuple[Mapping, ...],
    memory_read: MemoryRead | None,
) -> LibcImage | None:
    """The executable, described by what it was linked with; None for a dynamic one.

    A loader that was started by hand looks static too, but holds none of the marks.
    """
    with _opened(pid, group, memory_read) as (file, image):
        if image is None or elf.interpreter(image) is not None:
            return None
        kind, evidence = _linked_with(image)
        return _described(mappings, group, kind, evidence, file, image, static=True)


def _linked_with(image: elf.Image) -> tuple[str, str]:
    """Kind and evidence for a static program, from the marks in its read-only segments."""
    go = any(owner == b"Go" for owner, _, _ in elf.notes(image))
    musl = False
    for block in _read_only(image):
        if banner.has_glibc_malloc(block):
            return "glibc", "a static program with the messages of glibc's malloc"
        go = go or banner.has_go(block)
        musl = musl or banner.has_musl(block)
    if go:
        return "go", "a static program with the mark of Go's linker"
    if musl:
        return "musl", "a static program with messages of musl"
    return "unknown", "a static program without the marks of a known C library"


def _library(
    pid: int,
    mappings: tuple[Mapping, ...],
    group: tuple[Mapping, ...],
    kind: str,
    memory_read: MemoryRead | None,
) -> LibcImage:
    """A library that was chosen by its name, with its version from its content."""
    with _opened(pid, group, memory_read) as (file, image):
        evidence = "the name of a mapped library"
        if (
            image is not None
            and kind == "musl"
            and not any(map(banner.has_musl, _read_only(image)))
        ):
            kind, evidence = "unknown", "a mapped library named as musl's, without its marks"
        return _described(mappings, group, kind, evidence, file, image, static=False)


def _described(
    mappings: tuple[Mapping, ...],
    group: tuple[Mapping, ...],
    kind: str,
    evidence: str,
    file: MappedFile | None,
    image: elf.Image | None,
    *,
    static: bool,
) -> LibcImage:
    version, text = _version(kind, image)
    bias = None if image is None else elf.load_bias(image.header, group[:1])
    return LibcImage(
        kind=kind,
        path=group[0].path,
        mappings=group + _behind(mappings, group, image, bias),
        load_bias=bias,
        version=version,
        banner=text,
        build_id=None if image is None else elf.build_id(image),
        file_readable=file is not None,
        static=static,
        bits=64 if image is None else image.header.bits,
        evidence=evidence,
        machine=X86_64 if image is None else image.header.machine_name,
    )


def _version(kind: str, image: elf.Image | None) -> tuple[str | None, str | None]:
    if image is not None:
        for block in _read_only(image):
            if kind == "glibc" and (found := banner.find(block)):
                return found.version, found.text
            if kind == "musl" and (version := banner.musl_version(block)):
                return version, f"musl libc {version}"
    return None, None


def _behind(
    mappings: tuple[Mapping, ...],
    group: tuple[Mapping, ...],
    image: elf.Image | None,
    bias: int | None,
) -> tuple[Mapping, ...]:
    """The anonymous mappings behind the file's last one that hold the rest of its .bss.

    The kernel merges a program's .bss with [heap] where they touch; that one mapping is then
    returned whole.
    """
    start = group[-1].end
    if image is not None and bias is not None:
        loads = image.header.of_kind(elf.PT_LOAD)
        end = bias + max(load.address + load.memory_bytes for load in loads)
    else:
        end = start + 1
    return tuple(m for m in mappings if m.anonymous and start <= m.start < end)


def _read_only(image: elf.Image) -> Iterator[bytes]:
    """The content of the segments that are not writable, in overlapping blocks, data before
    code."""
    loads = [s for s in image.header.of_kind(elf.PT_LOAD) if not s.flags & elf.PF_W]
    budget = _MOST_SEARCHED_BYTES
    for load in sorted(loads, key=lambda load: load.flags & elf.PF_X):
        at, end = load.address, load.address + load.file_bytes
        while at < end and budget > 0:
            block = image.read(at, min(_BLOCK_BYTES, end - at))
            if block:
                yield block
            # What is missing in memory is passed over by pages; the overlap keeps a banner whole.
            step = max(len(block) - banner.LONGEST, _PAGE_BYTES)
            at += step
            budget -= step


@contextlib.contextmanager
def _opened(
    pid: int, group: tuple[Mapping, ...], memory_read: MemoryRead | None
) -> Iterator[tuple[MappedFile | None, elf.Image | None]]:
    """The mapped file, and its ELF image read from it, or else from memory."""
    file = open_mapped_file(pid, group[0])
    try:
        image = None
        with contextlib.suppress(BadInput):
            if file is not None:
                image = elf.from_file(file.read)
            elif memory_read is not None and group[0].offset == 0:
                image = elf.from_memory(memory_read, group[0].start)
        yield file, image
    finally:
        if file is not None:
            file.close()
