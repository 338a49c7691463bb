"""What each page of the heaps is used for: one byte for a page, as the walk tells it."""

from __future__ import annotations

from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX

PAGE = 4096
ABSENT, SWAPPED, OTHER, FREE, TRIMMABLE, LAZY = range(6)
"""AS_CELL_… of probes/include/walk.h."""
HELD = 16
SHARES = 16
"""A byte from HELD on: up to 1/SHARES of the page is held, up to 2/SHARES, … the whole page."""


@immutable
class HeapPages:
    """One heap (a row of chunks) of one arena. ``start``: the address of its first page; ``cells``:
    a byte for each page from there on."""

    arena_index: int
    start: int = field(metadata=HEX)
    cells: bytes

    def page_count(self, cell: int) -> int:
        return self.cells.count(cell)

    @property
    def held_page_count(self) -> int:
        """Pages of which something is held."""
        return sum(self.cells.count(HELD + share) for share in range(SHARES))


@immutable
class PageMap:
    """All heaps of all arenas, in glibc's order of arenas and by address within one. ``lazy_known``
    is False where there are lazily freed pages and nothing tells which they are."""

    heaps: tuple[HeapPages, ...]
    lazy_known: bool
