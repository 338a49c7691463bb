"""Settings of malloc that keep memory: thresholds that grew, and settings that do nothing."""

from __future__ import annotations

import dataclasses

from allocscope.causes import remedies
from allocscope.causes.finding import Finding, of_arenas
from allocscope.causes.remedies import advice
from allocscope.model.heap import Setting
from allocscope.model.situation import Situation
from allocscope.units import plural, size

DEFAULT_BYTES = 128 << 10
MISSPELT = {
    "MALLOC_MAX_ARENAS": "MALLOC_ARENA_MAX",
    "MALLOC_ARENAS_MAX": "MALLOC_ARENA_MAX",
    "MALLOC_ARENA_MAX_": "MALLOC_ARENA_MAX",
    "MALLOC_MMAP_THRESHOLD": "MALLOC_MMAP_THRESHOLD_",
    "MALLOC_TRIM_THRESHOLD": "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD": "MALLOC_TOP_PAD_",
}


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
    wanted = [
        f"{field.name.removesuffix('_bytes')}: {setting.evidence}, in force is {setting.value}"
        for field in dataclasses.fields(situation.heap.settings)
        if isinstance(setting := getattr(situation.heap.settings, field.name), Setting)
        and setting.without_effect
    ]
    if not wanted:
        return None
    return Finding(
        key="setting-without-effect",
        title="A malloc setting that has no effect",
        bytes=0,
        takes=(),
        confidence="measured",
        headline="a malloc setting has no effect",
        evidence=tuple(wanted),
        remedies=(
            advice(
                "set-at-start",
                "set it in the environment before the program starts (exec), not from within; "
                "set-id programs ignore it",
                "a restart",
            ),
        ),
    )
