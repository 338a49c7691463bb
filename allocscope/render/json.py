"""The contract as plain JSON objects: the envelope and what every verb puts into it.

Strategy: a dataclass becomes an object with the same keys in the same order; what differs is
named here (an arena's figures stand in the arena itself; ratios are derived). Rules: only the
standard library; addresses (fields marked ``hex``) are ``"0x…"``; unknown is null; nothing that a
target named can make the text invalid UTF-8. Which fields a class has is worked out once per
class, because a process may have a thousand arenas.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from math import isfinite

from allocscope.immutable import fields_of, names_of
from allocscope.model.asked import AskedArena, AskedData
from allocscope.model.failure import Failure
from allocscope.model.heap import Arena, ArenasData, Figures, Mmapped
from allocscope.model.libc import Allocator, Libc
from allocscope.model.process import Process
from allocscope.model.report import Caveat, Method, Report
from allocscope.typed import Any
from allocscope.version import VERSION

SCHEMA_VERSION = 1
_TRUTHS = {False: "false", True: "true"}

Object = dict[str, Any]


def envelope(report: Report[Any], schema: str, captured_at: float) -> Object:
    """One answer about one process as the contract's envelope.

    ``schema`` is the verb ("arenas"); ``captured_at`` is in seconds since 1970 (time.time), for
    reports that do not tell it themselves.
    """
    return wrap(
        schema,
        captured_at if report.captured_at is None else report.captured_at,
        process=report.process,
        libc=report.libc,
        allocator=report.allocator,
        method=report.method,
        data=plain(report.data),
        caveats=report.caveats,
    )


def envelope_of_failure(failure: Failure, schema: str, captured_at: float) -> Object:
    """The envelope of a target that gave no answer: ``data`` is null and ``error`` says why."""
    answer = wrap(schema, captured_at, data=None)
    answer["process"] = dict.fromkeys(names_of(Process), None)
    answer["process"]["pid"] = failure.pid
    answer["process"]["comm"] = plain(failure.comm) or None
    answer["error"] = {
        "exit_code": failure.exit_code,
        "message": plain(failure.message),
        "hint": plain(failure.hint),
    }
    return answer


def envelope_of_many(envelopes: Sequence[Object], schema: str, captured_at: float) -> Object:
    """Several targets: an envelope without a process of its own, whose ``data`` is the list of
    theirs.
    """
    return wrap(schema, captured_at, data=list(envelopes))


def wrap(
    schema: str,
    captured_at: float,
    *,
    data: Any,
    process: Process | None = None,
    libc: Libc | None = None,
    allocator: Allocator | None = None,
    method: Method | None = None,
    caveats: Sequence[Caveat] = (),
) -> Object:
    """The envelope around ``data``, which is plain already. Parts that do not apply are null."""
    return {
        "schema": f"allocscope/{schema}",
        "schema_version": SCHEMA_VERSION,
        "tool_version": VERSION,
        "captured_at": utc(captured_at),
        "process": plain(process),
        "libc": plain(libc),
        "allocator": plain(allocator),
        "method": plain(method),
        "data": data,
        "caveats": plain(caveats),
    }


def dumps(value: Object) -> str:
    """One line, ASCII only, ended by a newline. ValueError for NaN and infinities, which JSON has
    not.
    """
    return _written(value) + "\n"


def _written(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return _quoted(value)
    if kind is dict:
        return f"{{{', '.join([f'{_quoted(k)}: {_written(v)}' for k, v in value.items()])}}}"
    if kind is list:
        return f"[{', '.join(map(_written, value))}]"
    if kind is float and not isfinite(value):
        raise ValueError(f"JSON has no number for {value}")
    return "null" if value is None else _TRUTHS[value] if kind is bool else repr(value)


def _quoted(text: str) -> str:
    if text.isascii() and text.isprintable() and not ('"' in text or "\\" in text):
        return f'"{text}"'
    from json import dumps as escaped  # here, because hardly a text needs it, and it loads much

    return escaped(text)


def plain(value: Any) -> Any:
    """A model value as dicts, lists, strings and numbers. TypeError for anything else."""
    kind = type(value)
    if value is None or kind in (int, bool):
        return value
    if kind is float:
        return round(value, 6)
    if kind is str:
        return value if value.isascii() else _valid_text(value)
    if kind in (tuple, list):
        return [plain(item) for item in value]
    if kind is bytes:
        return value.decode("utf-8", "replace")
    special = _SPECIAL.get(kind)
    return special(value) if special else _object(value)


def _object(value: Any) -> Object:
    kind: type = type(value)
    answer: Object = {}
    for name, is_address in _fields(kind):
        item = getattr(value, name)
        answer[name] = plain(item) if item is None or not is_address else f"{item:#x}"
    return answer


def _figures(figures: Figures) -> Object:
    return {**_object(figures), "fragmentation_ratio": plain(figures.fragmentation_ratio)}


def _arena(arena: Arena) -> Object:
    """The arena's figures stand in the arena itself, before the list of its heaps."""
    answer: Object = {}
    for key, item in _object(arena).items():
        if key == "figures":
            answer.update(item)
        else:
            answer[key] = item
    return answer


def _asked(data: AskedData) -> Object:
    """The shape of ArenasData; what glibc does not tell is null."""
    answer: Object = {**_unknown(ArenasData), "rss_bytes": data.rss_bytes}
    answer["arenas"] = [_asked_arena(arena) for arena in data.arenas]
    mmapped = {"count": data.mmap_count, "bytes": data.mmap_bytes}
    answer["mmapped"] = {**_unknown(Mmapped), **mmapped}
    answer["totals"] = _asked_figures({name: _total(name, data.arenas) for name in _ASKED_FIGURES})
    answer["glibc_says"] = plain(data.glibc_says)
    return answer


_ASKED_FIGURES = tuple(name for name in names_of(AskedArena) if name not in ("index", "heap_count"))


def _asked_arena(arena: AskedArena) -> Object:
    answer = _unknown(Arena)
    heaps = answer.pop("heaps")
    del answer["figures"]
    answer |= {"index": arena.index, "is_main": arena.index == 0, "consistency": "partial"}
    figures = _asked_figures({name: getattr(arena, name) for name in _ASKED_FIGURES})
    return {**answer, **figures, "heap_count": arena.heap_count, "heaps": heaps}


def _asked_figures(known: Object) -> Object:
    return {**_unknown(Figures), "fragmentation_ratio": None, **known}


def _unknown(kind: type) -> Object:
    return dict.fromkeys((name for name, _ in _fields(kind)), None)


def _total(name: str, arenas: Sequence[AskedArena]) -> int | None:
    values = [getattr(arena, name) for arena in arenas]
    return None if None in values else sum(values)


_SPECIAL: dict[type, Callable[[Any], Object]] = {
    Arena: _arena,
    Figures: _figures,
    AskedData: _asked,
}


@functools.cache
def _fields(kind: type) -> tuple[tuple[str, bool], ...]:
    return tuple((name, bool(f.metadata.get("hex"))) for name, f in fields_of(kind).items())


def _valid_text(text: str) -> str:
    """Bytes that were not UTF-8 (kept by surrogateescape) become U+FFFD: JSON has no lone
    surrogates.
    """
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def utc(seconds: float) -> str:
    """A time as the contract prints it; ``seconds`` since 1970."""
    whole = int(seconds)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{stamp}.{int((seconds - whole) * 1000):03d}Z"
