"""Tables that fit: less important columns give way, numbers never do.

Strategy: every cell is text before the layout begins, so the width of each column is known; while
the sum is too wide, the column that may go first goes. Rules: a number is neither wrapped nor
cut; where even the indispensable columns are wider than the page, the page is exceeded rather
than a figure mangled.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from allocscope.immutable import immutable

GAP = 2


@immutable
class Column:
    """``cells`` holds one text per row, ``foot`` the total's. ``gives_way`` 0 stays always; else
    the highest goes first.
    """

    title: str
    cells: tuple[str, ...]
    foot: str = ""
    gives_way: int = 0
    left: bool = False

    @property
    def width(self) -> int:
        return max(cell_len(text) for text in (self.title, self.foot, *self.cells))


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that fit into ``width``, in their order."""
    kept = list(columns)
    while _needed(kept) > width:
        candidate = max(kept, key=lambda c: c.gives_way)
        if not candidate.gives_way:
            break
        kept.remove(candidate)
    return kept


@immutable
class Fitted:
    """A table as rich prints it, the width that it needs, and the titles of the columns that it
    kept.
    """

    grid: Table
    width: int
    titles: tuple[str, ...]


def fit(columns: Sequence[Column], width: int) -> Fitted:
    """A table of the columns that fit into ``width``."""
    kept = fitting(columns, width)
    grid = Table(
        box=box.SIMPLE,
        show_edge=False,
        show_footer=any(column.foot for column in kept),
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        header_style="bold",
        footer_style="bold",
    )
    for column in kept:
        grid.add_column(
            Text(column.title),
            Text(column.foot),
            justify="left" if column.left else "right",
            no_wrap=True,
            min_width=column.width,
        )
    for cells in zip(*(column.cells for column in kept), strict=True):
        grid.add_row(*(Text(cell) for cell in cells))
    return Fitted(grid, _needed(kept), tuple(column.title for column in kept))


def _needed(columns: Sequence[Column]) -> int:
    return sum(column.width + GAP for column in columns) - GAP
