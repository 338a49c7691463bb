"""The layout report: what a C library's malloc looks like in a process, without a single address or
content. It is meant to be sent to somebody."""

from __future__ import annotations

from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX


@immutable
class Words:
    """``count`` words alike, from ``at`` on: an offset from where the library begins in memory.

    ``kind``: zero, number (in ``numbers``), numbers (two 32-bit halves), size (a multiple of 4096,
    in ``numbers``), pointer (to ``offset`` within ``target``), empty bin (two words, both 16 bytes
    before themselves), absent (the page is not there), other (anything else: not told)."""

    at: int = field(metadata=HEX)
    count: int
    kind: str
    numbers: tuple[int, ...] = ()
    target: str | None = None
    offset: int | None = field(default=None, metadata=HEX)


@immutable
class Rule:
    """Something that a layout demands. ``at``: where it does not hold, as an offset in the
    structure; ``found``: what is there instead."""

    name: str
    held: bool
    at: int | None = field(default=None, metadata=HEX)
    found: str = ""


@immutable
class RowReport:
    """A row of the layout table held against the memory. ``main_arena``, ``mp``: where that row
    would have them (offsets from where the library begins), None where nothing looks like it."""

    layout: str
    versions: tuple[str, ...]
    fits: bool
    main_arena: int | None = field(metadata=HEX)
    mp: int | None = field(metadata=HEX)
    rules: tuple[Rule, ...]


@immutable
class MappedPart:
    """One mapping of the library; ``at`` from where it begins in memory. ``from_file`` is false for
    the anonymous memory behind its data (.bss)."""

    at: int = field(metadata=HEX)
    size_bytes: int
    permissions: str
    from_file: bool


@immutable
class LibraryReport:
    """One C library of the process. ``words``: its initialised data, and what is around the places
    that look like main_arena and ``mp_``."""

    path: str
    version: str | None
    banner: str | None
    build_id: str | None
    static: bool
    evidence: str
    parts: tuple[MappedPart, ...]
    rows: tuple[RowReport, ...]
    words: tuple[Words, ...]


@immutable
class LayoutReport:
    """All C libraries of a process."""

    thread_count: int
    libraries: tuple[LibraryReport, ...]
