"""What ``arenas`` says in words: the headline and the lines around the table.

Rules: each function returns plain strings without a newline, so that they can be tested apart
from their looks; every figure names its unit; every foreign string is cleaned; what is default is
said briefly, what was set is said with its origin.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from allocscope.model.glibc_says import Difference, GlibcSays
from allocscope.model.heap import ArenasData, Mmapped, Setting, Settings
from allocscope.model.libc import Allocator, Libc
from allocscope.model.report import Method, Report
from allocscope.render.text import KIB, age, clean, clean_path, duration, plural, signed_size, size

FROM_CORE = "core"
PAGE_BYTES = 4 * KIB


def held_bytes(data: ArenasData) -> int:
    """Resident bytes of everything that glibc malloc holds: arenas and chunks with a mapping of
    their own.
    """
    return data.totals.resident_bytes + data.mmapped.resident_bytes


def headline(report: Report[ArenasData], exact: bool = False) -> str:
    """The one sentence that must be read."""
    return headline_of(report.data, report.allocator, exact)


def headline_of(data: ArenasData, allocator: Allocator | None, exact: bool = False) -> str:
    """The same, without what surrounds the answer. ``allocator``: who serves malloc."""
    totals = data.totals
    held = size(held_bytes(data), exact)
    if data.rss_bytes is None:
        start = f"Of the pages that the core holds, {held} are glibc's"
    else:
        start = f"RSS {size(data.rss_bytes, exact)}, of which glibc holds {held}"
    if allocator is not None and allocator.name != "glibc":
        return f"{start}: here {clean(allocator.name)} serves malloc, not glibc."
    if not totals.free_resident_bytes:
        return f"{start}; nothing of that is free."
    free = f"{start}; {size(totals.free_resident_bytes, exact)} of that is free but resident, and"
    if not totals.trimmable_bytes:
        return f"{free} malloc_trim(0) would release none of it."
    return f"{free} malloc_trim(0) would release {size(totals.trimmable_bytes, exact)} now."


def identity(report: Report[Any]) -> tuple[str, ...]:
    """Which process this is, item by item, so that nobody acts on the wrong one."""
    process = report.process
    parts = (
        f"pid {process.pid} {clean(process.comm, 40)}",
        clean_path(process.exe, 60),
        plural(process.thread_count, "thread"),
        "" if process.uptime_s is None else f"up {age(process.uptime_s)}",
        _libc(report.libc),
        _allocator(report.allocator),
        "" if report.captured_at is None else as_of(report.captured_at),
    )
    return tuple(part for part in parts if part)


def as_of(captured_at: float) -> str:
    """When something was recorded; ``captured_at`` in seconds since 1970."""
    return time.strftime("as of %Y-%m-%d %H:%M:%S UTC", time.gmtime(captured_at))


def _libc(libc: Libc | None) -> str:
    return "" if libc is None else clean(f"{libc.kind} {libc.version or ''}".strip(), 40)


def _allocator(allocator: Allocator | None) -> str:
    if allocator is None or (allocator.name == "glibc" and not allocator.others):
        return ""
    others = [name for name in allocator.others if name != allocator.name]
    also = f", also mapped: {', '.join(others)}" if others else ""
    return clean(f"malloc served by {allocator.name}{also}")


def mmapped(data: Mmapped, exact: bool = False) -> str:
    """The chunks outside the arenas; the count found by header is told where it differs from
    glibc's (by whole pages: glibc's bytes may be a few too many).
    """
    if not data.count and not data.found_count:
        return "mmapped: no chunk has a mapping of its own."
    line = f"mmapped: {plural(data.count, 'chunk')} outside the arenas, {size(data.bytes, exact)}"
    if data.found_count != data.count or not 0 <= data.bytes - data.found_bytes < PAGE_BYTES:
        line += f"; found by header: {data.found_count}, {size(data.found_bytes, exact)}"
    return f"{line}, of which {size(data.resident_bytes, exact)} resident."


def method(how: Method) -> str:
    """How the answer was obtained and what it cost the target."""
    if how.source == FROM_CORE:
        return f"{how.source}, {duration(how.elapsed_ns)}; consistency: {how.consistency}"
    cost = (
        f"{duration(how.elapsed_ns)}, target paused {duration(how.pause_ns)}"
        if how.pause_ns
        else f"{duration(how.elapsed_ns)}, target never stopped"
    )
    return f"{how.source}, {cost}; consistency: {how.consistency}"


def settings_lines(settings: Settings, exact: bool = False) -> Iterator[tuple[str, str, str]]:
    """(name, value, origin and evidence) line by line: first what is worked out, then what was
    set, last in one line what is at its default.
    """
    yield "arenas", _arena_count(settings), ""
    for name, setting in _named(settings):
        if setting.origin != "default" or setting.without_effect:
            evidence = f": {clean(setting.evidence)}" if setting.evidence else ""
            yield name, _value(name, setting, exact), f"{setting.origin}{evidence}"
    if settings.thresholds_dynamic:
        yield "thresholds", "move by themselves: freeing a large mmapped chunk raises them", ""
    else:
        yield "thresholds", "fixed, because one of them was set", ""
    defaults = [
        f"{name} {_value(name, setting, exact)}"
        for name, setting in _named(settings)
        if setting.origin == "default" and not setting.without_effect
    ]
    if defaults:
        yield "at default", ", ".join(defaults), ""


def _arena_count(settings: Settings) -> str:
    limit = (
        "no limit worked out yet"
        if settings.arena_limit is None
        else f"at most {settings.arena_limit}"
    )
    cpus = "CPUs unknown"
    if settings.cpus_online is not None:
        cpus = f"{plural(settings.cpus_online, 'CPU')} online"
    quota = "" if settings.cpus_cgroup is None else f", cgroup quota {settings.cpus_cgroup:g}"
    return f"{settings.arena_count}, {limit}; {cpus}{quota}"


def _named(settings: Settings) -> tuple[tuple[str, Setting], ...]:
    return (
        ("arena_max", settings.arena_max),
        ("arena_test", settings.arena_test),
        ("mmap_threshold", settings.mmap_threshold_bytes),
        ("trim_threshold", settings.trim_threshold_bytes),
        ("top_pad", settings.top_pad_bytes),
        ("mmap_max", settings.mmap_max),
        ("tcache_count", settings.tcache_count),
        ("tcache_max", settings.tcache_max_bytes),
        ("hugetlb", settings.hugetlb),
    )


_IN_BYTES = frozenset({"mmap_threshold", "trim_threshold", "top_pad", "tcache_max"})


def _value(name: str, setting: Setting, exact: bool) -> str:
    value = setting.value
    if value is None:
        return "unknown"
    if name in _IN_BYTES and isinstance(value, int) and not isinstance(value, bool):
        return size(value, exact or value % KIB != 0)
    if name == "arena_max" and value == 0:
        return "unset"
    return clean(str(value))


def glibc_word(says: GlibcSays) -> str:
    """Whether glibc's own figures equal ours."""
    asked = [
        name
        for name, answer in (
            ("malloc_info", says.malloc_info),
            ("malloc_stats", says.malloc_stats),
        )
        if answer is not None
    ]
    who = f"glibc itself ({' and '.join(asked) or 'no answer'}, {says.source}"
    who += f", target paused {duration(says.pause_ns)})"
    if says.agrees:
        return f"{who} agrees with this reading in every figure."
    return f"{who} differs in {plural(len(says.differences), 'figure')}:"


def difference(differing: Difference, exact: bool = False) -> str:
    """One line for one figure on which glibc and our reading differ."""
    where = "process" if differing.arena_index is None else f"arena {differing.arena_index}"
    bytes_ = differing.figure.endswith("_bytes")
    theirs, ours = (
        size(value, exact) if bytes_ else str(value) for value in (differing.glibc, differing.ours)
    )
    why = f" ({clean(differing.explanation)})" if differing.explanation else ""
    return f"{where}, {clean(differing.figure)}: glibc {theirs}, here {ours}{why}"


def glibc_remarks(says: GlibcSays, exact: bool = False) -> Iterator[str]:
    """What else is worth knowing about the asking: locks held, drift."""
    if says.locks_held:
        held = ", ".join(clean(lock) for lock in says.locks_held)
        yield f"Locks held at that instant, released in the copy: {held}."
    if says.drift_bytes:
        yield (
            f"Bytes in use changed by {signed_size(says.drift_bytes, exact)} "
            "between the passive reading and the snapshot."
        )
