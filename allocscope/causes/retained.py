"""Free memory of malloc that is still resident: where malloc_trim reaches it, where a live chunk on
the same page keeps it, and where the main heap cannot shrink because of what lies at its end."""

from __future__ import annotations

from allocscope.causes import remedies
from allocscope.causes.finding import Cell, Finding, of_arenas, share
from allocscope.model.ledger import Remedy
from allocscope.model.situation import ArenaResidence, Situation
from allocscope.units import plural, size

MOSTLY_FREE_RATIO = 0.5


def main_residence(situation: Situation) -> ArenaResidence | None:
    return next((arena for arena in situation.residence if arena.index == 0), None)


def top_pinned(situation: Situation) -> Finding | None:
    """The main heap is mostly free, yet a live chunk near its end keeps the break where it is."""
    main = main_residence(situation)
    if main is None or not main.resident_bytes:
        return None
    parked = sum(end.held_bytes for end in situation.heap.parked_ends if end.arena_index == 0)
    held = max(0, main.whole_pages_bytes - parked)  # what lies above the last live chunk
    if not held or held < MOSTLY_FREE_RATIO * main.resident_bytes or held < main.top_bytes:
        return None
    arena = situation.heap.arenas[0]
    word = "in all" if situation.at_most else "resident"
    return Finding(
        key="top-pinned",
        title="The main heap is mostly free, but a live chunk near its end keeps it from shrinking",
        bytes=held,
        takes=((("glibc-free-whole-pages", 0), held),),
        confidence="measured",
        headline=f"{size(held)} are free in a main heap that a live chunk near its end keeps from "
        "shrinking",
        evidence=(
            f"the main heap has {size(main.resident_bytes)} {word}, of which "
            f"{size(main.live_bytes)} are live and {size(held)} are whole free pages below top",
            f"top, the only part that free() can give back, has {size(arena.figures.top_bytes)}",
            *_pin(main),
        ),
        remedies=(remedies.trim(situation), remedies.look_at_pins()),
    )


def _pin(main: ArenaResidence) -> tuple[str, ...]:
    if main.last_live is None:
        return ()
    chunk = f"{size(main.last_live_bytes)} at {main.last_live:#x}"
    return (f"the live chunk nearest to top is one of {chunk}",)


def untrimmed_free(situation: Situation) -> Finding | None:
    """Whole pages within free chunks, and the end of the main heap: free() keeps them."""
    takes: tuple[tuple[Cell, int], ...] = of_arenas(
        situation,
        "glibc-free-whole-pages",
        lambda arena: arena.whole_pages_bytes - arena.locked_pages_bytes,
    ) + of_arenas(situation, "glibc-top", lambda arena: arena.top_trimmable_bytes)
    total = sum(taken for _, taken in takes)
    if not total:
        return None
    totals = situation.heap.totals
    return Finding(
        key="untrimmed-free",
        title="Free pages that malloc keeps until malloc_trim is called",
        bytes=total,
        takes=takes,
        confidence="measured",
        headline=f"{size(total)} are free pages that malloc keeps and malloc_trim(0) releases",
        evidence=(
            f"{size(total)} of {'' if situation.at_most else 'resident '}memory lie in whole free "
            f"pages, in {plural(len({cell[1] for cell, _ in takes}), 'arena')}",
            f"malloc holds {size(totals.free_resident_bytes)} "
            f"free{'' if situation.at_most else ' but resident'}, of which malloc_trim(0) would "
            f"release {'at most ' if situation.at_most else ''}{size(totals.trimmable_bytes)}",
        ),
        remedies=(remedies.trim(situation),),
    )


def locked_free(situation: Situation) -> Finding | None:
    """Whole free pages that are mlocked: malloc_trim's madvise fails there, and says nothing."""
    takes = of_arenas(situation, "glibc-free-whole-pages", lambda arena: arena.locked_pages_bytes)
    total = sum(taken for _, taken in takes)
    if not total:
        return None
    locked = sum(entry.locked_bytes or 0 for entry in situation.smaps)
    return Finding(
        key="locked-free",
        title="Free pages that are mlocked, so that malloc_trim cannot release them",
        bytes=total,
        takes=takes,
        confidence="measured",
        headline=f"{size(total)} are free pages in malloc that are mlocked, which no trim releases",
        evidence=(
            f"{size(total)} lie in whole free pages under mlock, where the kernel refuses madvise "
            "and glibc ignores that",
            f"the process has {size(locked)} under mlock in all",
        ),
        remedies=(
            Remedy(
                key="lock-less",
                action="lock what must not fault, with mlock, instead of everything, with "
                "mlockall(MCL_FUTURE): unlocked, malloc_trim(0) releases these pages",
                gain_bytes=total,
                gain_is="forecast",
                cost="a change of the program; pages that are no longer locked may fault",
            ),
        ),
    )


def scattered_live(situation: Situation) -> Finding | None:
    """Free bytes on pages that a live chunk holds."""
    takes = of_arenas(situation, "glibc-free-shared-pages", lambda arena: arena.shared_pages_bytes)
    total = sum(taken for _, taken in takes)
    if not total:
        return None
    live = situation.ledger.resident("glibc-live")
    count = situation.heap.totals.live_count
    return Finding(
        key="scattered-live",
        title="Live chunks scattered over pages that are otherwise free",
        bytes=total,
        takes=takes,
        confidence="measured",
        headline=f"{size(total)} are free but share their pages with live chunks, scattered among "
        "them",
        evidence=(
            f"{size(total)} are free on pages that something live is on too; malloc_trim releases "
            "none of that",
            f"{plural(count, 'live chunk')} of {size(live)} hold them: "
            f"{share(live, live + total)} of these bytes are live",
        ),
        remedies=(remedies.look_at_pins(), remedies.other_malloc()),
    )
