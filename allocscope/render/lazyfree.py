"""``lazyfree`` for people: what is held, by whom, and what a reclaim came to."""

from __future__ import annotations

from allocscope.model.lazyfree import LazyfreeData, LazyMapping, Reclaimed
from allocscope.model.report import Report
from allocscope.render import sentences
from allocscope.render.columns import fit
from allocscope.render.figures import Cut, Figure, columns, parted, unit_of
from allocscope.render.page import Look, Page
from allocscope.render.text import clean, clean_path, duration, plural, size

_PATH_MOST = 40
_OWNER_MOST = 24
_OWNERS_NAMED = 3

_FIGURES: tuple[Figure[LazyMapping], ...] = (
    Figure("mapping", lambda m: f"{m.start:x}", "name"),
    Figure("owner", lambda m: clean_path(m.owner.name, _OWNER_MOST), "name", adds_up=False),
    Figure("size", lambda m: m.end - m.start, gives_way=2),
    Figure("resident", lambda m: m.resident_bytes),
    Figure("lazily freed", lambda m: m.lazyfree_bytes),
    Figure("rewritten", lambda m: m.rewritten_bytes, gives_way=1),
    Figure("locked", lambda m: "yes" if m.locked else "", "name", if_any=True, adds_up=False),
    Figure(
        "path",
        lambda m: clean_path(m.path, _PATH_MOST),
        "name",
        gives_way=3,
        if_any=True,
        adds_up=False,
    ),
)


def lazyfree(report: Report[LazyfreeData], look: Look) -> str:
    """A sentence, the mappings, why they are whose, and the caveats."""
    page, data = Page(look), report.data
    page.line(headline(data, look.exact_bytes), "bold")
    if data.reclaimed is not None:
        page.line(_reclaimed(data.reclaimed, look.exact_bytes), "green")
    process = report.process
    items = [
        f"pid {process.pid} {clean(process.comm)}",
        clean_path(process.exe, 60),
        plural(process.thread_count, "thread"),
    ]
    if report.captured_at is not None:
        items.append(sentences.as_of(report.captured_at))
    page.items(items)
    if data.mappings:
        _table(data, page)
    for caveat in report.caveats:
        page.line(f"note: {clean(caveat.message)} [{clean(caveat.code)}]", "yellow")
    page.line(sentences.method(report.method), "dim")
    return page.text()


def headline(data: LazyfreeData, exact: bool = False) -> str:
    """What the figures say, in one or two sentences."""
    rss = size(data.rss_bytes, exact)
    if not data.lazyfree_bytes:
        return f"Nothing of RSS {rss} is held by MADV_FREE."
    held = size(data.lazyfree_bytes, exact)
    owners = [
        f"{clean_path(owner.name, _OWNER_MOST)} {size(owner.lazyfree_bytes, exact)}"
        for owner in data.owners[:_OWNERS_NAMED]
    ]
    if len(data.owners) > _OWNERS_NAMED:
        owners.append(f"and {len(data.owners) - _OWNERS_NAMED} more")
    whose = f" ({', '.join(owners)})" if [o.name for o in data.owners] != ["unknown"] else ""
    verb = "was" if data.reclaimed else "is"
    return (
        f"{held} of RSS {rss} {verb} given back with MADV_FREE{whose}: the kernel takes such pages "
        "when it needs memory, and RSS counts them until then."
    )


def _reclaimed(done: Reclaimed, exact: bool) -> str:
    if not done.advised_bytes:
        return "There was nothing to reclaim."
    before, after = size(done.rss_before_bytes, exact), size(done.rss_after_bytes, exact)
    return (
        f"Reclaimed {size(done.released_bytes, exact)} in {duration(done.duration_ns)}: RSS "
        f"{before} before, {after} after; lazily freed {size(done.lazyfree_before_bytes, exact)} "
        f"before, {size(done.lazyfree_after_bytes, exact)} after."
    )


def _table(data: LazyfreeData, page: Page) -> None:
    look = page.look
    cut = Cut("Mappings", data.mappings, _FIGURES, lambda m: m.lazyfree_bytes)
    unit = unit_of(cut, look.exact_bytes)
    page.blank()
    page.heading(f"Mappings that hold such pages, the most first ({unit.name})")
    page.table(fit(columns(cut, unit, look.rows), look.width))
    page.line("rewritten: given back, then written to: in use again, and left alone", "dim")
    told = set()
    for mapping in parted(cut, look.rows)[0]:
        owner = mapping.owner
        if owner.evidence and owner.name not in told:
            told.add(owner.name)
            start = f"{clean_path(owner.name, _OWNER_MOST)}: "
            page.line(start + clean(owner.evidence), "dim", hanging=len(start))
    page.blank()
