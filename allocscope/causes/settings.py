"""Settings of malloc that keep memory: thresholds that grew, and settings that do nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from allocscope.causes import remedies
from allocscope.causes.finding import Finding, of_arenas
from allocscope.causes.remedies import advice
from allocscope.immutable import names_of
from allocscope.model.heap import Setting, Settings
from allocscope.model.situation import Situation
from allocscope.parse.environ import TUNABLES, tunables
from allocscope.units import plural, size

DEFAULT_BYTES = 128 << 10
VARIABLES = frozenset(
    {
        "MALLOC_ARENA_MAX", "MALLOC_ARENA_TEST", "MALLOC_CHECK_", "MALLOC_MMAP_MAX_",
        "MALLOC_MMAP_THRESHOLD_", "MALLOC_PERTURB_", "MALLOC_TOP_PAD_", "MALLOC_TRACE",
        "MALLOC_TRIM_THRESHOLD_",
    }
)  # fmt: skip
"""What glibc reads (mallopt(3), mtrace(3)); the underscores at the end are a part of the names."""
OF_OTHERS = frozenset({"MALLOC_CONF", "MALLOC_OPTIONS"})
"""What jemalloc reads."""
TUNABLES_KNOWN = frozenset(
    {
        "arena_max", "arena_test", "check", "hugetlb", "mmap_max", "mmap_threshold", "mxfast",
        "perturb", "tcache_count", "tcache_max", "tcache_unsorted_limit", "top_pad",
        "trim_threshold",
    }
)  # fmt: skip


def raised_thresholds(situation: Situation) -> Finding | None:
    """Tops that a trim threshold of the default size would have let free() give back."""
    settings = situation.heap.settings
    threshold, trim = settings.mmap_threshold_bytes, settings.trim_threshold_bytes
    if not isinstance(trim.value, int) or trim.value <= DEFAULT_BYTES:
        return None
    takes = of_arenas(situation, "glibc-top", lambda arena: max(0, arena.top_bytes - DEFAULT_BYTES))
    total = sum(taken for _, taken in takes)
    if not total or not isinstance(threshold.value, int):
        return None
    return Finding(
        key="raised-thresholds",
        title="Thresholds that grew: free() gives back less than at first",
        bytes=total,
        takes=takes,
        confidence="inferred",
        headline=f"{size(total)} are free ends of heaps below a trim threshold that grew to "
        f"{size(trim.value)}",
        evidence=(
            f"free() leaves up to {size(trim.value)} at the end of each heap ({trim.origin}; at "
            f"first {size(DEFAULT_BYTES)})",
            f"chunks below {size(threshold.value)} come from arenas ({threshold.origin}): "
            f"{threshold.evidence}",
            f"{plural(len(takes), 'heap end')} have {size(total)} more than {size(DEFAULT_BYTES)}",
        ),
        remedies=(remedies.fixed_thresholds(total),),
    )


def setting_without_effect(situation: Situation) -> Finding | None:
    """What the environment asks for in vain."""
    wanted = asked_in_vain(situation.heap.settings, situation.environ or {})
    if not wanted:
        return None
    return Finding(
        key="setting-without-effect",
        title="A malloc setting that has no effect",
        bytes=0,
        takes=(),
        confidence="measured",
        headline="a malloc setting has no effect",
        evidence=wanted,
        remedies=(
            advice(
                "set-at-start",
                "set it in the environment before the program starts (exec), not from within; "
                "set-id programs ignore it",
                "a restart",
            ),
        ),
    )


def asked_in_vain(settings: Settings, environ: Mapping[str, str]) -> tuple[str, ...]:
    """What the start environment asks for while something else is in force, or what no glibc
    reads."""
    unheard = (
        f"{name.removesuffix('_bytes')}: {setting.evidence}, in force is {setting.value}"
        for name in names_of(Settings)
        if isinstance(setting := getattr(settings, name), Setting) and setting.without_effect
    )
    return (*_unknown_names(environ), *unheard)


def _unknown_names(environ: Mapping[str, str]) -> Iterator[str]:
    """Names that look like settings of malloc and that no glibc reads."""
    for name in environ:
        if name.startswith("MALLOC_") and name not in VARIABLES | OF_OTHERS:
            meant = next((known for known in VARIABLES if known.strip("_") == name.strip("_")), "")
            yield f"no glibc reads {name}" + (f"; the name is {meant}" if meant else "")
    for name in tunables(environ.get(TUNABLES, "")):
        if name.startswith("glibc.malloc.") and name[len("glibc.malloc.") :] not in TUNABLES_KNOWN:
            yield f"no glibc knows the tunable {name}"
