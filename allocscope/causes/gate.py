"""Limits held against a process: what was found, whether it is too much, and which causes bear on
it.

Rules: a limit allows what it names (equal is kept); a figure that the source does not tell is
never taken for 0, it is refused before anything is judged (`untold`). Of a core a figure can have
bounds alone: what it was at least and at most decides where both agree, and the limit is refused
where it lies between them. Causes are those of the explanation, in its order: each limit names the
ones that make its figure larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from allocscope.causes import remedies
from allocscope.causes.finding import share
from allocscope.causes.spread import arena_limits
from allocscope.immutable import immutable, replace
from allocscope.model.core_explanation import CoreExplanation
from allocscope.model.gate import FIGURES, Limit, LimitKey, Verdict
from allocscope.model.heap import ArenasData
from allocscope.model.ledger import Cause, CauseKey, Explanation, Remedy
from allocscope.model.situation import Situation
from allocscope.units import plural, size

OF_MALLOC: frozenset[LimitKey] = frozenset(
    {"max-retained", "max-retained-ratio", "max-trimmable", "max-arenas"}
)
"""Limits on what glibc's malloc holds: they say nothing where another allocator serves malloc."""
UNTOLD: dict[LimitKey, str] = {
    "max-retained-ratio": "it is a share of RSS, which a core does not tell",
    "max-footprint": "it needs the kernel's count of shared and swapped pages",
    "max-unexplained-ratio": "it is a share of RSS, which a core does not tell",
}
"""Why a core cannot judge a limit."""

_RETAINING: frozenset[CauseKey] = frozenset(
    {
        "untrimmed-free", "scattered-live", "top-pinned", "arena-spread", "thread-top",
        "tcache-hoard", "parked-top", "fastbin-hoard", "raised-thresholds", "thp-inflation",
        "locked-free",
    }
)  # fmt: skip
_NO_FOOTPRINT: frozenset[CauseKey] = frozenset(
    {"healthy", "lazyfree-held", "file-cache", "setting-without-effect"}
)
"""What the footprint does not count."""
MOST_ROWS = 3


@immutable
class Found:
    """What is known of the process: its heap; but for a core also its situation, of a recording as
    far as that tells it. ``at_most``: of a core, what its heap can have been, where ``heap`` is
    what it was at least."""

    heap: ArenasData
    situation: Situation | None = None
    explanation: Explanation | CoreExplanation | None = None
    at_most: ArenasData | None = None

    @property
    def rss_bytes(self) -> int | None:
        return self.heap.rss_bytes if self.situation is None else self.situation.rss_bytes


def untold(limits: Iterable[Limit]) -> Iterator[tuple[LimitKey, str]]:
    """The limits that a core cannot judge, and why."""
    for limit in limits:
        if why := UNTOLD.get(limit.key):
            yield limit.key, why


def judge(limits: Sequence[Limit], found: Found) -> tuple[Verdict, ...]:
    """Every limit, in the order given. ValueError for one whose figure is not known."""
    return tuple(_verdict(limit, found) for limit in limits)


def bounds(limit: Limit, found: Found) -> tuple[int | float, int | float] | None:
    """What the figure of a core was at least and at most, where the limit lies between them."""
    if found.at_most is None:
        return None
    least, most = figure(limit.key, found), figure(limit.key, _at_most(found))
    if least is None or most is None or not least <= limit.most < most:
        return None
    return least, most


def _at_most(found: Found) -> Found:
    return found if found.at_most is None else replace(found, heap=found.at_most)


def figure(key: LimitKey, found: Found) -> int | float | None:
    """The figure that a limit is held against; None where nothing tells it."""
    return _FIGURE[key](found)


def _verdict(limit: Limit, found: Found) -> Verdict:
    value = figure(limit.key, found)
    if value is not None and value <= limit.most:
        value = figure(limit.key, _at_most(found))
    if value is None:
        raise ValueError(f"{limit.key} has no figure here")
    exceeded = value > limit.most
    return Verdict(
        key=limit.key,
        figure=FIGURES[limit.key],
        most=limit.most,
        found=value,
        exceeded=exceeded,
        says=tuple(_SAYS[limit.key](found)) if exceeded else (),
        causes=_causes(limit.key, found) if exceeded else (),
        remedies=_remedies(limit, found) if exceeded else (),
    )


# ---- figures ----


def _ratio(part: int, whole: int | None) -> float | None:
    if whole is None:
        return None
    return part / whole if whole else 0.0


def _unexplained(found: Found) -> float | None:
    """None where a recording does not tell who has which memory: it may be anybody's."""
    if found.situation is None or found.situation.ledger.evidence_of("not-recorded"):
        return None
    return _ratio(found.situation.ledger.resident("unexplained"), found.rss_bytes)


def _footprint(found: Found) -> int | None:
    return None if found.explanation is None else found.explanation.footprint_bytes


_FIGURE: dict[LimitKey, Callable[[Found], int | float | None]] = {
    "max-retained": lambda found: found.heap.totals.free_resident_bytes,
    "max-retained-ratio": lambda found: _ratio(
        found.heap.totals.free_resident_bytes, found.rss_bytes
    ),
    "max-trimmable": lambda found: found.heap.totals.trimmable_bytes,
    "max-arenas": lambda found: len(found.heap.arenas),
    "max-footprint": _footprint,
    "max-unexplained-ratio": _unexplained,
}


# ---- what a figure consists of ----


def _of_retained(found: Found) -> Iterator[str]:
    totals = found.heap.totals
    retained, rss = totals.free_resident_bytes, found.rss_bytes
    if rss is None:
        yield f"{size(retained)} were free in malloc, in memory or in swap (pages not of zeros)"
    else:
        yield f"{size(retained)} ({share(retained, rss)} of RSS) are resident and free in malloc"
    if totals.trimmable_bytes:
        yield f"malloc_trim(0) would release {size(totals.trimmable_bytes)} of that"
    if totals.pinned_bytes:
        yield f"{size(totals.pinned_bytes)} of it lie on pages that something else is on too"


def _of_trimmable(found: Found) -> Iterator[str]:
    arenas = [arena for arena in found.heap.arenas if arena.figures.trimmable_bytes]
    fullest = max(arenas, key=lambda arena: arena.figures.trimmable_bytes)
    yield (
        f"malloc_trim(0) would release it in {plural(len(arenas), 'arena')}, most in arena "
        f"{fullest.index}: {size(fullest.figures.trimmable_bytes)}"
    )


def _of_arenas(found: Found) -> Iterator[str]:
    arenas = found.heap.arenas
    idle = sum(arena.attached_threads == 0 for arena in arenas)
    if idle:
        yield f"{idle} of {plural(len(arenas), 'arena')} have no thread attached"
    yield from arena_limits(found.heap.settings)


def _of_footprint(found: Found) -> Iterator[str]:
    if found.situation is not None:
        rows = sorted(found.situation.ledger.rows, key=lambda row: -row.resident_bytes)
        told = [f"{row.label} {size(row.resident_bytes)}" for row in rows[:MOST_ROWS]]
        yield f"most of RSS is: {'; '.join(told)}"


def _of_unexplained(found: Found) -> Iterator[str]:
    if found.situation is not None:
        parts = [
            (h.resident_bytes or 0, h.start)
            for h in found.situation.holdings
            if h.key == "unexplained"
        ]
        largest, start = max(parts, key=lambda part: part[0])
        yield (
            f"{size(sum(part for part, _ in parts))} of anonymous memory in which no "
            f"structure of a known owner was found, most of it, {size(largest)}, "
            f"at {start:#x}"
        )


_SAYS: dict[LimitKey, Callable[[Found], Iterator[str]]] = {
    "max-retained": _of_retained,
    "max-retained-ratio": _of_retained,
    "max-trimmable": _of_trimmable,
    "max-arenas": _of_arenas,
    "max-footprint": _of_footprint,
    "max-unexplained-ratio": _of_unexplained,
}


# ---- causes and remedies ----


def _causes(key: LimitKey, found: Found) -> tuple[Cause, ...]:
    if found.explanation is None:
        return ()
    return tuple(cause for cause in found.explanation.causes if _bears_on(cause, key))


def _bears_on(cause: Cause, key: LimitKey) -> bool:
    if key in ("max-retained", "max-retained-ratio"):
        return cause.key in _RETAINING
    if key == "max-trimmable":
        return any(remedy.key == "trim" for remedy in cause.remedies)
    if key == "max-arenas":
        return cause.key == "arena-spread"
    if key == "max-unexplained-ratio":
        return cause.key == "other-allocator"
    return cause.key not in _NO_FOOTPRINT


def _remedies(limit: Limit, found: Found) -> tuple[Remedy, ...]:
    if limit.key == "max-arenas":
        return (remedies.fewer_arenas(max(1, int(limit.most))),)
    if found.explanation is None and found.heap.totals.trimmable_bytes:
        return (remedies.trim_of(found.heap),)
    return ()
