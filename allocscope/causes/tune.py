"""What the present state of a process says about its malloc settings.

Strategy: one rule for each setting looks at the situation and gives a suggestion or the reason why
there is none. Rules: one look at a process cannot tell what another setting would have made of it,
so no gain is promised: a suggestion names the bytes that the setting bears on now, what they depend
on, what it may cost, and the command that tries it. Too little to be worth a restart: below 5 % of
RSS, or below 4 MiB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from allocscope.account.parked_ends import OLD_TCACHE_COUNT
from allocscope.causes.finding import share
from allocscope.causes.parked import enough, what_keeps
from allocscope.causes.settings import DEFAULT_BYTES, asked_in_vain
from allocscope.causes.spread import reusable
from allocscope.causes.start import limit_rule, start_with
from allocscope.immutable import immutable
from allocscope.model.heap import Arena, ArenasData, ParkedEnd, Setting
from allocscope.model.situation import ArenaResidence, Contention, Situation
from allocscope.model.tune import ArenaUse, LeftAlone, SettingKey, Suggestion, TuneData
from allocscope.units import MIB, plural, size

FEWEST_ARENAS = 2
WORTH_RATIO = 0.05
WORTH_BYTES = 4 * MIB
CROWDED_RATIO = 0.01
"""Of the looks at locks: found with others waiting."""


@immutable
class Case:
    """What the rules look at. ``rss_bytes``, ``contention``, ``environ`` and ``version`` (of glibc)
    are None where they are not known."""

    rss_bytes: int | None
    heap: ArenasData
    residence: tuple[ArenaResidence, ...]
    contention: Contention | None
    environ: dict[str, str] | None
    version: str | None

    def worth(self, concerned: int) -> bool:
        return concerned >= max(WORTH_BYTES, WORTH_RATIO * (self.rss_bytes or 0))

    def command(self, key: SettingKey, value: int) -> str:
        return start_with(key, value, self.version, self.environ or {})


def tune(situation: Situation, version: str | None) -> TuneData:
    """The data of the contract. ``version``: of glibc, None where it is not known."""
    return tune_case(
        Case(
            rss_bytes=situation.rss_bytes,
            heap=situation.heap,
            residence=situation.residence,
            contention=situation.contention,
            environ=situation.environ,
            version=version,
        )
    )


def tune_case(case: Case) -> TuneData:
    """The same of what is known of a process."""
    heap = case.heap
    by_index = {arena.index: arena for arena in heap.arenas}
    uses = tuple(_use(held, by_index[held.index]) for held in case.residence)
    answers = [rule(case) for rule in RULES]
    idle = [use for use in uses if use.idle]
    return TuneData(
        rss_bytes=case.rss_bytes,
        settings=heap.settings,
        limit_rule=limit_rule(heap.settings, case.version),
        contention=case.contention,
        arenas=uses,
        idle_arena_count=len(idle),
        idle_reusable_bytes=sum(use.reusable_bytes for use in idle),
        trimmable_bytes=heap.totals.trimmable_bytes,
        without_effect=_without_effect(case),
        suggestions=tuple(answer for answer in answers if isinstance(answer, Suggestion)),
        left_alone=tuple(answer for answer in answers if isinstance(answer, LeftAlone)),
    )


def _use(held: ArenaResidence, arena: Arena) -> ArenaUse:
    attached = arena.attached_threads
    return ArenaUse(
        index=held.index,
        attached_threads=attached,
        idle=None if attached is None else attached == 0,
        resident_bytes=held.resident_bytes,
        live_bytes=held.live_bytes,
        free_resident_bytes=held.free_bytes,
        reusable_bytes=reusable(held),
    )


def _without_effect(case: Case) -> tuple[str, ...]:
    settings = case.heap.settings
    told = asked_in_vain(settings, case.environ or {})
    most = settings.arena_max.value
    if isinstance(most, int) and 0 < most < settings.arena_count:
        told += (
            f"arena_max is {most}, but there are {settings.arena_count} arenas: it was set when "
            "they had been made, and no arena is ever taken away",
        )
    return told


# ---- one rule for each setting ----


def _arena_max(case: Case) -> Suggestion | LeftAlone:
    settings = case.heap.settings
    count = len(case.residence)
    threads = [arena for arena in case.residence if arena.index]
    concerned = sum(map(reusable, threads))
    if not threads:
        return LeftAlone("arena_max", "there is only the main arena")
    cpus = _cpus(case)
    if cpus is None:
        return LeftAlone("arena_max", "the number of CPUs is not known")
    value = max(FEWEST_ARENAS, math.ceil(cpus))
    if count <= value:
        return LeftAlone(
            "arena_max", f"there are {count} arenas, no more than can be of use on {cpus:g} CPUs"
        )
    if not case.worth(concerned):
        reason = f"thread arenas hold no more than {size(concerned)} that another could use"
        return LeftAlone("arena_max", reason)
    seen = case.contention
    if crowded(seen):
        assert seen is not None
        waited = share(seen.waited_for_count, seen.look_count)
        return LeftAlone(
            "arena_max",
            f"in {waited} of the looks at their locks threads waited for an arena: with fewer they "
            "would wait longer",
        )
    quota = "of the cgroup's quota" if settings.cpus_cgroup == cpus else "online"
    return Suggestion(
        key="arena_max",
        value=value,
        concerned_bytes=concerned,
        estimate=f"{size(concerned)} are free in whole pages, in "
        f"{plural(len(threads), 'thread arena')}, where threads of other arenas cannot use them. "
        "Most of it may come back if threads are busy in turn, nothing if all are busy at once",
        rests_on=(
            f"{count} arenas; {value} are enough for the threads that can run at once on {cpus:g} "
            f"CPUs ({quota})",
            *_seen(seen),
        ),
        cost="threads that allocate at the same time wait for each other's arena; watch the "
        "program's speed under full load",
        only_at_start=True,
        command=case.command("arena_max", value),
        in_program=f"mallopt(M_ARENA_MAX, {value}), before the first thread is started",
    )


def _cpus(case: Case) -> float | None:
    """CPUs that the process can use at once."""
    settings = case.heap.settings
    known = [cpus for cpus in (settings.cpus_online, settings.cpus_cgroup) if cpus is not None]
    return min(known) if known else None


def crowded(seen: Contention | None) -> bool:
    """Whether threads were seen to wait for arenas."""
    return seen is not None and seen.waited_for_count > CROWDED_RATIO * seen.look_count


def _seen(seen: Contention | None) -> tuple[str, ...]:
    if seen is None or not seen.look_count:
        return ()
    return (
        f"in {share(seen.waited_for_count, seen.look_count)} of {seen.look_count} looks at their "
        "locks, within a few milliseconds, others waited for an arena; under full load that may be "
        "more",
    )


def _trim_threshold(case: Case) -> Suggestion | LeftAlone:
    setting = case.heap.settings.trim_threshold_bytes
    if not _above_default(setting):
        return _at_default("trim_threshold", setting)
    tops = [arena.top_bytes for arena in case.residence]
    over = [top - DEFAULT_BYTES for top in tops if top > DEFAULT_BYTES]
    if not case.worth(sum(over)):
        return LeftAlone(
            "trim_threshold",
            f"it is {_amount(setting)} ({setting.origin}), but the ends of heaps hold only "
            f"{size(sum(over))} more than {size(DEFAULT_BYTES)} each",
        )
    return Suggestion(
        key="trim_threshold",
        value=DEFAULT_BYTES,
        concerned_bytes=sum(over),
        estimate=f"{size(sum(over))} lie at the ends of {plural(len(over), 'heap')}, beyond "
        f"{size(DEFAULT_BYTES)} each. free() would have given it back; as it is, it waits to be "
        "used again, and may be",
        rests_on=(
            f"trim_threshold is {_amount(setting)} ({setting.origin}): {setting.evidence}",
            f"the largest end of a heap has {size(max(tops))} resident",
        ),
        cost="a system call whenever the end of a heap shrinks and grows again, and page faults "
        "where that memory is used anew; mmap_threshold stays fixed then as well",
        only_at_start=False,
        command=case.command("trim_threshold", DEFAULT_BYTES),
        in_program=f"mallopt(M_TRIM_THRESHOLD, {DEFAULT_BYTES})",
    )


def _mmap_threshold(case: Case) -> Suggestion | LeftAlone:
    heap = case.heap
    setting = heap.settings.mmap_threshold_bytes
    if not _above_default(setting):
        return _at_default("mmap_threshold", setting)
    large = [row for row in heap.size_classes if row.min_bytes >= DEFAULT_BYTES]
    whole = sum(arena.whole_pages_bytes for arena in case.residence)
    concerned = min(sum(row.bin_bytes for row in large), whole)
    live_count = sum(row.live_count for row in large)
    if not case.worth(concerned):
        return LeftAlone(
            "mmap_threshold",
            f"it is {_amount(setting)} ({setting.origin}), but no more than {size(concerned)} are "
            f"free in chunks of {size(DEFAULT_BYTES)} and more",
        )
    if not live_count:
        return LeftAlone(
            "mmap_threshold",
            f"it is {_amount(setting)} ({setting.origin}), but no live chunk of "
            f"{size(DEFAULT_BYTES)} and more lies in an arena: nothing shows that the free ones "
            "were allocated in such sizes, not merged of smaller ones",
        )
    live = size(sum(row.live_bytes for row in large))
    return Suggestion(
        key="mmap_threshold",
        value=DEFAULT_BYTES,
        concerned_bytes=concerned,
        estimate=f"at most {size(concerned)} are free in chunks of {size(DEFAULT_BYTES)} and more. "
        "What was allocated in such sizes would have been unmapped by free(); what has been merged "
        "from smaller chunks would not",
        rests_on=(
            f"mmap_threshold is {_amount(setting)} ({setting.origin}): {setting.evidence}",
            f"{plural(live_count, 'live chunk')} of such sizes, {live} in all, in arenas",
        ),
        cost="mmap, munmap and page faults for each such allocation, which are dear where they are "
        "frequent; at most mmap_max of them have mappings; trim_threshold stays fixed then as well",
        only_at_start=False,
        command=case.command("mmap_threshold", DEFAULT_BYTES),
        in_program=f"mallopt(M_MMAP_THRESHOLD, {DEFAULT_BYTES})",
    )


def _above_default(setting: Setting) -> bool:
    return isinstance(setting.value, int) and setting.value > DEFAULT_BYTES


def _at_default(key: SettingKey, setting: Setting) -> LeftAlone:
    return LeftAlone(key, f"it is {_amount(setting)} ({setting.origin}), which keeps little")


def _amount(setting: Setting) -> str:
    return size(setting.value if isinstance(setting.value, int) else None)


def _tcache_count(case: Case) -> Suggestion | LeftAlone:
    heap = case.heap
    setting = heap.settings.tcache_count
    if not isinstance(setting.value, int) or not setting.value:
        return LeftAlone("tcache_count", "there are no thread caches")
    parked = sum(arena.tcache_bytes for arena in case.residence)
    held = sum(end.held_bytes for end in heap.parked_ends)
    if not case.worth(parked + held):
        return LeftAlone("tcache_count", f"thread caches hold no more than {size(parked + held)}")
    value = OLD_TCACHE_COUNT if setting.value > OLD_TCACHE_COUNT else 0
    if held > parked:
        value, _ = enough(heap.parked_ends)
    return Suggestion(
        key="tcache_count",
        value=value,
        concerned_bytes=parked + held,
        estimate=_estimate(heap, parked, held, setting.value, value),
        rests_on=(
            f"tcache_count is {setting.value} ({setting.origin})",
            f"{plural(heap.totals.tcache_count, 'chunk')} in caches",
            *_at_ends(heap.parked_ends, held),
        ),
        cost="malloc and free take the arena's lock more often"
        + ("" if value else ", with 0 each time")
        + "; many threads on one arena wait for each other",
        only_at_start=True,
        command=case.command("tcache_count", value),
        in_program=None,
    )


def _estimate(heap: ArenasData, parked: int, held: int, now: int, value: int) -> str:
    if held > parked:
        return (
            f"{size(held)} at the ends of heaps would have been given back by free(), but for what "
            "thread caches have there"
        )
    caches = sum(thread.tcache_count > 0 for thread in heap.threads)
    return (
        f"{size(parked)} are parked in {plural(caches, 'thread cache')}, where neither other "
        "threads nor malloc_trim reach them. Without caches they would be in bins, and be used "
        "again or trimmed"
        + (f"; with {value} for each size about {value} of {now} stay" if value else "")
    )


def _at_ends(ends: Sequence[ParkedEnd], held: int) -> tuple[str, ...]:
    if not held:
        return ()
    return (f"{what_keeps(ends)} are all that keeps {size(held)} at the ends of heaps",)


RULES: tuple[Callable[[Case], Suggestion | LeftAlone], ...] = (
    _arena_max,
    _trim_threshold,
    _mmap_threshold,
    _tcache_count,
)
