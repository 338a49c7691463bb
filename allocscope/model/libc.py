"""Which C library and which allocator a process has."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Libc:
    """``kind``: glibc, musl or unknown. ``version``, ``path``, ``build_id`` are for display only; ``layout`` names the row of
    the layout table that validated (``malloc_state/heap_info/tcache/mp_``), None where none did."""

    kind: str
    version: str | None
    banner: str | None
    path: str
    build_id: str | None
    layout: str | None
    safe_linking: bool | None


@dataclasses.dataclass(frozen=True, slots=True)
class Allocator:
    """``name``: who serves malloc in this process; ``others``: further allocators whose code is mapped."""

    name: str
    others: tuple[str, ...]
