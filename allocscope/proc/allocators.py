"""Which other allocators a process has mapped, and which allocator serves malloc.

Strategy: a mapped library of a known name is an allocator; whether it serves malloc is decided as
the loader decides it, by the first in its search order that exports ``malloc``: the program, what
is preloaded, then the libraries that the program needs, and those that they need, breadth first
(ld.so(8); DT_NEEDED in the files). What dlopen brought comes later still, behind the C library.

Rules: a library being loaded proves nothing about malloc. The preload list is the one the program
was started with. Allocators linked into the program under names of their own (Rust's, for one) do
not replace malloc and are not seen here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from allocscope.errors import BadInput
from allocscope.immutable import immutable
from allocscope.model.libc import Allocator, LibcImage, MappedAllocator
from allocscope.model.process import Mapping
from allocscope.parse import elf, environ, sonames, symbols
from allocscope.proc import procfs
from allocscope.proc.mapped import open_mapped_file

_LIBRARIES = (
    ("jemalloc", ("libjemalloc",)),
    ("tcmalloc", ("libtcmalloc",)),
    ("mimalloc", ("libmimalloc",)),
    ("snmalloc", ("libsnmalloc",)),
    ("hardened_malloc", ("libhardened_malloc",)),
    ("libc_malloc_debug", ("libc_malloc_debug.so",)),
    ("tbbmalloc", ("libtbbmalloc",)),
    ("scudo", ("libscudo", "libclang_rt.scudo")),
    ("rpmalloc", ("librpmalloc",)),
    ("hoard", ("libhoard",)),
    ("mesh", ("libmesh",)),
    ("AddressSanitizer", ("libasan", "libclang_rt.asan")),
    ("valgrind", ("vgpreload_",)),
)
"""How the file names of allocators begin, and of tools that put themselves in front of malloc."""

_MARKS = (
    (b"mallctl", "jemalloc"),
    (b"tc_malloc", "tcmalloc"),
    (b"mi_malloc", "mimalloc"),
    (b"sn_rust_alloc", "snmalloc"),
    (b"rpmalloc", "rpmalloc"),
    (b"__asan_init", "AddressSanitizer"),
    (b"scalable_malloc", "tbbmalloc"),
)
"""Exported functions that tell which allocator a program, or a library of unknown name,
contains."""

_MOST_NEEDED = 256
UNKNOWN = "unknown"


@immutable
class _Library:
    """A mapped file as the loader's search sees it. ``mark``: the allocator that its exported
    functions give away."""

    path: str
    soname: str
    needed: tuple[str, ...]
    has_interpreter: bool
    exports_malloc: bool
    mark: str | None


def identify(pid: int, mappings: tuple[Mapping, ...], image: LibcImage) -> Allocator:
    """Who serves malloc, as one name: that of ``image`` ("glibc"), of another allocator, or
    ``unknown`` where others are mapped and the search order cannot be seen.

    Raises NoSuchProcess and PermissionRefused.
    """
    found = mapped_allocators(pid, mappings)
    names = tuple(dict.fromkeys(allocator.name for allocator in found))
    if image.static or not found:
        return Allocator(image.kind, names)
    first = found[0]
    if first.serves_malloc is None:
        return Allocator(UNKNOWN, names)
    if not first.serves_malloc:
        return Allocator(image.kind, names)
    return Allocator(first.name, tuple(name for name in names if name != first.name))


def mapped_allocators(pid: int, mappings: tuple[Mapping, ...]) -> tuple[MappedAllocator, ...]:
    """Allocators other than the C library's, the one that serves malloc first, each with the
    evidence; empty where there is none. Raises NoSuchProcess and PermissionRefused."""
    scope = _Scope(pid, mappings)
    server, evidence = scope.server()
    names = {path: name for path in scope.files for name in _names_of(path)}
    if server is not None and not sonames.is_libc(server.path):
        names.setdefault(server.path, server.mark or os.path.basename(server.path))
    found = [
        MappedAllocator(name, path, None if server is None else server.path == path, evidence)
        for path, name in names.items()
    ]
    return tuple(sorted(found, key=lambda allocator: (not allocator.serves_malloc, allocator.path)))


def named(paths: Iterable[str]) -> tuple[str, ...]:
    """The allocators that go by the names of these libraries; whether one serves malloc is not
    looked at."""
    return tuple(dict.fromkeys(name for path in paths for name in _names_of(path)))


def mapped_by_name(mappings: Iterable[Mapping]) -> tuple[MappedAllocator, ...]:
    """The same with their paths, where nothing tells in which order they were searched."""
    paths = dict.fromkeys(mapping.path for mapping in mappings if mapping.inode)
    evidence = "the file's name"
    return tuple(
        MappedAllocator(name, path, None, evidence) for path in paths for name in _names_of(path)
    )


def _names_of(path: str) -> list[str]:
    file = path.rpartition("/")[2]
    return [name for name, known in _LIBRARIES if file.startswith(known) and ".so" in file]


class _Scope:
    """The loader's search for malloc in one process, replayed from the files that it has mapped."""

    def __init__(self, pid: int, mappings: tuple[Mapping, ...]) -> None:
        self.pid = pid
        self.files = {m.path: m for m in mappings if m.inode and m.path.startswith("/")}
        self._opened: dict[str, _Library | None] = {}

    def server(self) -> tuple[_Library | None, str]:
        """The file in which the loader finds malloc (None where that cannot be told), and the
        evidence."""
        program = self._program()
        if program is None:
            return None, "the program's file cannot be read, so the search order is not known"
        if program.exports_malloc:
            return program, "the program itself exports malloc"
        for name in _preloaded(self.pid):
            library = self._find(name)
            if library is not None and library.exports_malloc:
                return library, f"{name} is preloaded and exports malloc"
        waiting = list(program.needed)
        for name in waiting:
            library = self._find(name)
            if library is None:
                continue
            if library.exports_malloc:
                return library, f"{name} is the first needed library that exports malloc"
            if len(waiting) < _MOST_NEEDED:
                waiting += [other for other in library.needed if other not in waiting]
        return None, "no library that the program needs exports malloc"

    def _program(self) -> _Library | None:
        """The program; where the loader was started by hand, the mapped file that asks for one."""
        path = procfs.exe(self.pid).replace("\n", "\\012")
        if not sonames.is_loader(path):
            return self._library(path)
        libraries = (self._library(path) for path in self.files if not sonames.is_libc(path))
        return next((found for found in libraries if found and found.has_interpreter), None)

    def _find(self, name: str) -> _Library | None:
        """The mapped file that a name in a list of libraries stands for.

        The loader maps libfoo.so.2.1 for libfoo.so.2, and glibc was once libc-2.31.so: so files
        that begin alike are asked for their soname. A preloaded file may have any name, and be
        reached through links.
        """
        base = os.path.basename(name)
        stem = base.partition(".so")[0]
        for path in self.files:
            file_name = os.path.basename(path).removesuffix(" (deleted)")
            if file_name.startswith(stem):
                library = self._library(path)
                if library is not None and base in (file_name, library.soname):
                    return library
        if name.startswith("/"):
            with contextlib.suppress(OSError, ValueError):
                inode = os.stat(f"/proc/{self.pid}/root{name}").st_ino
                same = (path for path, mapping in self.files.items() if mapping.inode == inode)
                return self._library(next(same, ""))
        return None

    def _library(self, path: str) -> _Library | None:
        if path not in self._opened:
            mapping = self.files.get(path)
            self._opened[path] = None if mapping is None else _read_library(self.pid, mapping)
        return self._opened[path]


def _read_library(pid: int, mapping: Mapping) -> _Library | None:
    """What one mapped file says of itself; None where it cannot be opened or is no ELF file."""
    file = open_mapped_file(pid, mapping)
    if file is None:
        return None
    with file, contextlib.suppress(BadInput):
        image = elf.from_file(file.read)
        exports = symbols.exported(image, b"malloc") is not None
        marks = (name for mark, name in _MARKS if symbols.exported(image, mark) is not None)
        return _Library(
            path=mapping.path,
            soname="".join(map(_text, elf.names(image, elf.DT_SONAME)[:1])),
            needed=tuple(map(_text, elf.names(image, elf.DT_NEEDED))),
            has_interpreter=elf.interpreter(image) is not None,
            exports_malloc=exports and not sonames.forwards_malloc(mapping.path),
            mark=next(marks, None) if exports else None,
        )
    return None


def _preloaded(pid: int) -> list[str]:
    """The names in LD_PRELOAD and /etc/ld.so.preload, in the order in which the loader takes
    them."""
    listed = procfs.environ(pid).get(environ.PRELOAD, "")
    with contextlib.suppress(OSError), open(f"/proc/{pid}/root/etc/ld.so.preload", "rb") as file:
        lines = _text(file.read(65536)).split("\n")
        listed = " ".join([listed, *(line.partition("#")[0] for line in lines)])
    return listed.replace(":", " ").split()


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
