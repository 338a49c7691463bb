"""The answer of ``tune``: which malloc settings are in force, and which others are worth a try."""

from __future__ import annotations

from typing import Literal

from allocscope.immutable import immutable
from allocscope.model.heap import Settings
from allocscope.model.situation import Contention

SettingKey = Literal["arena_max", "trim_threshold", "mmap_threshold", "tcache_count"]


@immutable
class ArenaUse:
    """One arena as its threads use it. ``reusable_bytes``: resident and free in whole pages or at
    its end, so that any thread could use it, if it were of this arena; ``idle``: no thread is
    attached (None: this glibc does not tell)."""

    index: int
    attached_threads: int | None
    idle: bool | None
    resident_bytes: int
    live_bytes: int
    free_resident_bytes: int
    reusable_bytes: int


@immutable
class Suggestion:
    """A setting that is worth a measurement. ``concerned_bytes``: free resident bytes that it bears
    on now, measured; what of them comes back is ``estimate``, in words, and not known before it is
    tried. ``rests_on``: what it is concluded from; ``cost``: what it may cost; ``command``: how to
    start the program with it; ``in_program``: the call that does the same from within, None without
    one; ``only_at_start``: it has its effect only before malloc and the threads are busy."""

    key: SettingKey
    value: int
    concerned_bytes: int
    estimate: str
    rests_on: tuple[str, ...]
    cost: str
    only_at_start: bool
    command: str
    in_program: str | None


@immutable
class LeftAlone:
    """A setting for which nothing is suggested, and why."""

    key: SettingKey
    reason: str


@immutable
class TuneData:
    """The data of ``tune``. ``rss_bytes`` and ``contention`` are None where nothing tells.
    ``limit_rule``: how glibc comes to its limit of arenas, None where that is not known.
    ``without_effect``: what was asked for in vain. ``trimmable_bytes``: what malloc_trim(0) would
    release now, without any setting."""

    rss_bytes: int | None
    settings: Settings
    limit_rule: str | None
    contention: Contention | None
    arenas: tuple[ArenaUse, ...]
    idle_arena_count: int
    idle_reusable_bytes: int
    trimmable_bytes: int
    without_effect: tuple[str, ...]
    suggestions: tuple[Suggestion, ...]
    left_alone: tuple[LeftAlone, ...]
