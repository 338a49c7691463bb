"""``footprint`` for people: one row for each process, and what all of them come to.

Rules: RSS of several processes counts what they share once for each, and their peaks were at
different times, so neither is summed here; PSS can be added up.
"""

from __future__ import annotations

from collections.abc import Callable

from allocscope.model.footprint import Footprint, FootprintAnswer, FootprintData
from allocscope.render import sentences
from allocscope.render.columns import fit
from allocscope.render.figures import Cut, Figure, columns, unit_of
from allocscope.render.page import Look, Page
from allocscope.render.text import clean, duration, plural, size

KEYS: dict[str, Callable[[Footprint], int | None]] = {
    "footprint": lambda row: row.footprint_bytes,
    "tree": lambda row: row.tree_footprint_bytes,
    "rss": lambda row: row.rss_bytes,
    "peak": lambda row: row.peak_rss_bytes,
    "pss": lambda row: row.pss_bytes,
    "uss": lambda row: row.uss_bytes,
    "dirty": lambda row: row.private_dirty_bytes,
    "swap": lambda row: row.swap_bytes,
    "lazyfree": lambda row: row.lazyfree_bytes,
    "tables": lambda row: row.page_table_bytes,
    "retained": lambda row: row.retained_bytes,
}
"""What ``--sort`` takes besides pid and name: the largest first, the unknown last."""


def _figures(retained: bool) -> tuple[Figure[Footprint], ...]:
    free: Figure[Footprint] = Figure("retained", KEYS["retained"], adds_up=False)
    kept = (free,) if retained else ()
    return (
        Figure("process", lambda row: f"{row.pid} {clean(row.comm, 16)}", "name"),
        Figure("footprint", KEYS["footprint"]),
        *kept,
        Figure("tree", KEYS["tree"], gives_way=3, if_any=True, adds_up=False),
        Figure("RSS", KEYS["rss"], adds_up=False),
        Figure("peak", KEYS["peak"], gives_way=4, adds_up=False),
        Figure("PSS", KEYS["pss"]),
        Figure("USS", KEYS["uss"], gives_way=1),
        Figure("dirty", KEYS["dirty"], gives_way=5),
        Figure("swap", KEYS["swap"], gives_way=2, if_any=True),
        Figure("lazyfree", KEYS["lazyfree"], gives_way=2, if_any=True),
        Figure("tables", KEYS["tables"], gives_way=6),
    )


def ordered(rows: tuple[Footprint, ...], sort: str) -> tuple[Footprint, ...]:
    """The rows as ``--sort`` wants them; where they are equal, by pid."""
    if sort == "pid":
        return tuple(sorted(rows, key=lambda row: row.pid))
    if sort == "name":
        return tuple(sorted(rows, key=lambda row: (row.comm, row.pid)))
    key = KEYS[sort]
    return tuple(sorted(rows, key=lambda row: (-1 if (v := key(row)) is None else v, -row.pid)))[
        ::-1
    ]


def footprint(answer: FootprintAnswer, sort: str, retained: bool, look: Look) -> str:
    """A sentence, the table, who failed, and the caveats."""
    page, data = Page(look), answer.data
    page.line(headline(data, retained, look.exact_bytes), "bold")
    if data.rows:
        _table(data, sort, retained, page)
    for failure in data.failed:
        name = f" ({clean(failure.comm, 40)})" if failure.comm else ""
        page.line(f"{failure.pid}{name}: {clean(failure.message)}", "yellow")
    for caveat in answer.caveats:
        page.line(f"note: {clean(caveat.message)} [{caveat.code}]", "yellow")
    page.line(_method(answer), "dim")
    return page.text()


def _method(answer: FootprintAnswer) -> str:
    if answer.method is None or answer.captured_at is None:
        return f"passive, {duration(answer.elapsed_ns)}, no process was stopped"
    return f"{sentences.method(answer.method)}; {sentences.as_of(answer.captured_at)}"


def headline(data: FootprintData, retained: bool, exact: bool = False) -> str:
    """Who holds most."""
    if not data.rows:
        return "No process to show."
    name = "retained" if retained else "footprint"
    most = ordered(data.rows, name)[0]
    held = KEYS[name](most)
    who = f"{most.pid} {clean(most.comm, 40)}"
    what = "retains" if retained else "holds"
    if held is None:
        rss = "" if most.rss_bytes is None else f" of RSS {size(most.rss_bytes, exact)}"
        return f"{who}: how much{rss} it {what} is unknown."
    if len(data.rows) == 1:
        return f"{who} {what} {size(held, exact)} of RSS {size(most.rss_bytes, exact)}."
    total = getattr(data.totals, f"{name}_bytes")
    together = f" of {size(total, exact)} together" if total is not None else ""
    return (
        f"{plural(len(data.rows), 'process', 'processes')}: {who} {what} most, "
        f"{size(held, exact)}{together}."
    )


def _table(data: FootprintData, sort: str, retained: bool, page: Page) -> None:
    look = page.look
    read = [row for row in data.rows if row.pss_bytes is not None]
    place = {row.pid: rank for rank, row in enumerate(ordered(data.rows, sort))}
    cut = Cut(
        "Processes",
        read or data.rows,
        _figures(retained),
        weight=lambda row: -place[row.pid],
        order=lambda row: place[row.pid],
    )
    unit = unit_of(cut, look.exact_bytes)
    page.blank()
    page.heading(f"Processes by {sort} ({unit.name})")
    page.table(fit(columns(cut, unit, look.rows), look.width))
    page.line(
        "footprint: anonymous and shared memory, swapped too, and page tables, less lazily freed",
        "dim",
    )
    words = ["PSS: shared pages divided", "USS: without them"]
    if any(row.tree_footprint_bytes is not None for row in data.rows):
        words.insert(0, "tree: with all descendants")
    page.items(words, "dim")
    page.blank()
