"""The answer of ``pins``: which live chunks hold how much free memory, what they are, and who
points at them."""

from __future__ import annotations

from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX
from allocscope.typed import Literal

KindName = Literal["vtable", "string", "pointer-array", "zero", "unknown"]
HeldBy = Literal["live", "tcache", "fastbin", "tcache-struct"]


@immutable
class Kind:
    """What a chunk's first words look like, a guess by shape. ``name``: of a vtable the symbol, or
    the library that it lies in; else empty."""

    type: KindName
    name: str


@immutable
class Reference:
    """A word in memory that points into a chunk: its address, its value, and the index of the
    chunk among those looked for."""

    where_address: int = field(metadata=HEX)
    value: int = field(metadata=HEX)
    target: int


@immutable
class Referrer:
    """Who points at a chunk. ``where``: "libfoo.so!cache+0x40", "stack of thread 12", "heap chunk
    0x…"; ``address`` is that of the pointing word, ``to_start`` whether it points at what malloc
    returned. ``through``: who in turn points at that heap chunk, one level up."""

    where: str
    address: int = field(metadata=HEX)
    to_start: bool
    through: tuple[str, ...]


@immutable
class Pin:
    """The highest chunk of a heap that keeps its end where it is.

    ``chunk`` is its start, 16 below what malloc returned; ``held_by`` says whether it is live or
    parked. ``free_bytes_below``: the free memory right below it, or below the ``run_count`` held
    chunks of which it is the last. ``released_if_freed_bytes``: resident bytes that free() would
    hand back, by its own rule, if this chunk alone were freed and no cache kept it; None where it
    would hand back memory of which nothing tells what is resident (a core). ``kind``,
    ``referrer_count`` and ``referrers`` are None where the program's data are not known (a
    recording without contents). ``first_bytes``: its first bytes in hex, only where they were asked
    for."""

    arena_index: int
    heap_start: int = field(metadata=HEX)
    chunk: int = field(metadata=HEX)
    size_bytes: int
    held_by: HeldBy
    run_count: int
    run_bytes: int
    free_bytes_below: int
    released_if_freed_bytes: int | None
    kind: Kind | None
    referrer_count: int | None
    referrers: tuple[Referrer, ...] | None
    first_bytes: str | None


@immutable
class PinningClass:
    """Live chunks of one size class that share pages with free chunks, and with live ones of no
    other class. ``size_bytes`` is the smallest size of the class, ``largest_bytes`` the largest;
    ``pinned_bytes`` the free bytes on these pages."""

    size_bytes: int
    largest_bytes: int
    live_count: int
    pinned_bytes: int


@immutable
class PinsData:
    """``pins`` by what freeing them would release, then by the free memory below them;
    ``size_classes`` by what they pin.
    ``mixed_bytes``: free bytes on pages that live chunks of several classes hold; ``parked_bytes``:
    on pages that only thread caches hold. ``scanned_bytes``: how much writable memory was searched
    for pointers; None where it is not known."""

    pins: tuple[Pin, ...]
    size_classes: tuple[PinningClass, ...]
    mixed_bytes: int
    parked_bytes: int
    scanned_bytes: int | None
