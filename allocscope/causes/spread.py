"""Many arenas: memory that is free in one and of no use to the threads of another."""

from __future__ import annotations

from allocscope.causes import remedies
from allocscope.causes.finding import Finding, of_arenas, share
from allocscope.model.heap import Settings
from allocscope.model.situation import ArenaResidence, Situation
from allocscope.units import plural, size

FEWEST_ARENAS = 4
MOSTLY_FREE_RATIO = 0.5
FEW_ARENAS = 2


def reusable(arena: ArenaResidence) -> int:
    """What another thread could use if it were in its arena: whole free pages, and top."""
    return arena.whole_pages_bytes + arena.top_bytes


def mostly_empty(situation: Situation) -> tuple[ArenaResidence, ...]:
    """Thread arenas at least half of which is free in whole pages."""
    return tuple(
        arena
        for arena in situation.residence
        if arena.index and reusable(arena) > MOSTLY_FREE_RATIO * arena.resident_bytes
    )


def arena_spread(situation: Situation) -> Finding | None:
    """Several thread arenas that stand mostly empty."""
    empty = mostly_empty(situation)
    if len(empty) < FEWEST_ARENAS:
        return None
    indexes = {arena.index for arena in empty}
    takes = of_arenas(
        situation,
        "glibc-free-whole-pages",
        lambda arena: arena.whole_pages_bytes if arena.index in indexes else 0,
    ) + of_arenas(
        situation, "glibc-top", lambda arena: arena.top_bytes if arena.index in indexes else 0
    )
    total = sum(taken for _, taken in takes)
    resident = sum(arena.resident_bytes for arena in empty)
    gain = sum(sorted(map(reusable, empty))[: len(empty) - FEW_ARENAS])
    return Finding(
        key="arena-spread",
        title="Many arenas, most of them nearly empty",
        bytes=total,
        takes=takes,
        confidence="measured",
        headline=f"{size(total)} are free in {len(empty)} arenas that stand mostly empty",
        evidence=(
            f"{len(empty)} of {plural(len(situation.residence), 'arena')} are mostly empty: "
            f"{size(total)} of their {size(resident)} are free ({share(total, resident)})",
            *arena_limits(situation.heap.settings),
            *_threads(situation),
        ),
        remedies=(remedies.trim(situation), remedies.fewer_arenas(FEW_ARENAS, size(gain))),
    )


def arena_limits(settings: Settings) -> tuple[str, ...]:
    """How many arenas glibc makes at most, and why; nothing where that is not known."""
    if settings.arena_limit is None:
        return ()
    maximum = settings.arena_max.value
    by = f"arena_max is {maximum}" if maximum else "MALLOC_ARENA_MAX is not in force"
    said = f"glibc makes up to {settings.arena_limit} arenas here: {by}"
    if settings.cpus_online is not None:
        said += f", {plural(settings.cpus_online, 'CPU')} online"
    if settings.cpus_cgroup is not None:
        said += f" (the cgroup allows {settings.cpus_cgroup:g}, which glibc does not see)"
    return (said,)


def _threads(situation: Situation) -> tuple[str, ...]:
    attached = [arena.attached_threads for arena in situation.heap.arenas]
    counts = [count for count in attached if count is not None]
    per_arena = (f"threads per arena: {min(counts)} to {max(counts)}",) if counts else ()
    seen = situation.contention
    if seen is None or not seen.look_count:
        return per_arena
    taken, waited_for = (
        share(count, seen.look_count) for count in (seen.locked_count, seen.waited_for_count)
    )
    return (
        *per_arena,
        f"in {seen.look_count} looks at the arenas' locks {taken} were taken, {waited_for} with "
        "others waiting",
    )


def thread_top(situation: Situation) -> Finding | None:
    """The ends of thread arenas, which malloc_trim never touches."""
    takes = of_arenas(situation, "glibc-top", lambda arena: arena.top_bytes if arena.index else 0)
    total = sum(taken for _, taken in takes)
    if not total:
        return None
    return Finding(
        key="thread-top",
        title="Free ends of thread arenas, which malloc_trim does not touch",
        bytes=total,
        takes=takes,
        confidence="measured",
        headline=f"{size(total)} are the free ends of thread arenas, out of malloc_trim's reach",
        evidence=(
            f"the tops of {plural(len(takes), 'thread arena')} have {size(total)} "
            f"{'in all' if situation.at_most else 'resident'}; "
            "malloc_trim shrinks the main arena's top only (glibc malloc.c, mtrim and systrim)",
        ),
        remedies=(
            remedies.fixed_thresholds(None),
            remedies.fewer_arenas(FEW_ARENAS),
        ),
    )
