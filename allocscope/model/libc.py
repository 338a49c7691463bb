"""Which C library and which allocator a process has."""

from __future__ import annotations

from allocscope.immutable import immutable
from allocscope.model.process import Mapping

X86_64, I386, AARCH64, OTHER = "x86-64", "i386", "aarch64", "other"
"""What a program was compiled for, as far as allocscope knows such machines."""


@immutable
class Libc:
    """``kind``: glibc, musl or unknown. ``version``, ``path``, ``build_id`` are for display only;
    ``layout`` names the row of the layout table that validated
    (``malloc_state/heap_info/tcache/mp_``), None where none did."""

    kind: str
    version: str | None
    banner: str | None
    path: str
    build_id: str | None
    layout: str | None
    safe_linking: bool | None


@immutable
class Allocator:
    """``name``: who serves malloc in this process; ``others``: further allocators whose code is
    mapped."""

    name: str
    others: tuple[str, ...]


@immutable
class LibcImage:
    """One C library, or what stands in its place, as it is mapped into a process.

    ``kind``: glibc, musl, go (a program of the Go linker without a C library) or unknown (a
    program without any C library that is known). ``mappings``: all of its file, ascending, and the
    anonymous ones behind them that hold its .bss. ``load_bias``: what to add to an address of the
    file; None where its headers could not be read and the program is not relocatable. ``static``:
    part of the executable itself. ``bits``: 64 or 32. ``banner``: the packager's words.
    ``file_readable``: the very file that is mapped can be opened. ``evidence``: what made it
    known. ``machine``: one of the names above.
    """

    kind: str
    path: str
    mappings: tuple[Mapping, ...]
    load_bias: int | None
    version: str | None
    banner: str | None
    build_id: str | None
    file_readable: bool
    static: bool
    bits: int
    evidence: str
    machine: str = X86_64


@immutable
class MappedAllocator:
    """An allocator other than the C library's whose code is in the process.

    ``serves_malloc``: True where a call of malloc reaches it, False where it does not, None where
    that cannot be told from outside. ``evidence`` says what was looked at."""

    name: str
    path: str
    serves_malloc: bool | None
    evidence: str
