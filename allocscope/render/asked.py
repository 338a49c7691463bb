"""``arenas`` where glibc alone could be asked: its arenas, in address space.

Rule: nothing that glibc does not tell has a column; the caveats name it.
"""

from __future__ import annotations

from allocscope.model.asked import AskedArena, AskedData
from allocscope.render.columns import fit
from allocscope.render.figures import Cut, Figure, columns, unit_of
from allocscope.render.page import Page
from allocscope.render.text import plural, size


def headline(data: AskedData, exact: bool = False) -> str:
    """The one sentence that must be read."""
    system = sum(arena.system_bytes for arena in data.arenas)
    free = sum(
        arena.bin_bytes + (arena.fastbin_bytes or 0) + (arena.top_bytes or 0)
        for arena in data.arenas
    )
    return (
        f"RSS {size(data.rss_bytes, exact)}. glibc says that {plural(len(data.arenas), 'arena')} "
        f"obtained {size(system, exact)}, of which {size(free, exact)} is free; how much of that "
        "is resident is unknown."
    )


def arenas(page: Page, data: AskedData) -> None:
    """The table of arenas, and the chunks outside them."""
    exact = page.look.exact_bytes
    figures: list[Figure[AskedArena]] = [
        Figure("arena", _name, "name"),
        Figure("system", lambda a: a.system_bytes),
        Figure("in use", lambda a: a.in_use_bytes),
        Figure("fastbins", lambda a: a.fastbin_bytes, if_any=True),
        Figure("bins", lambda a: a.bin_bytes),
        Figure("top", lambda a: a.top_bytes),
    ]
    cut = Cut("Arenas, the largest first", data.arenas, figures, lambda a: a.system_bytes)
    unit = unit_of(cut, exact)
    page.heading(f"{cut.title} ({unit.name})")
    page.table(fit(columns(cut, unit, page.look.rows), page.look.width))
    legend = (
        "system: obtained from the kernel",
        "in use: live, in tcaches, and glibc's own",
        "fastbins, bins, top: free",
    )
    page.items(legend, "dim")
    page.blank()
    page.line(_mmapped(data, exact))


def _name(arena: AskedArena) -> str:
    return f"{arena.index} main" if arena.index == 0 else str(arena.index)


def _mmapped(data: AskedData, exact: bool) -> str:
    if data.mmap_count is None:
        return "mmapped: this glibc does not tell."
    if not data.mmap_count:
        return "mmapped: no chunk has a mapping of its own."
    chunks = plural(data.mmap_count, "chunk")
    return f"mmapped: {chunks} outside the arenas, {size(data.mmap_bytes, exact)}."
