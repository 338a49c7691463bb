"""The answer of ``check``: limits, what was found, and why a limit was exceeded."""

from __future__ import annotations

from typing import Literal

from allocscope.immutable import immutable
from allocscope.model.ledger import Cause, Remedy

LimitKey = Literal[
    "max-retained",
    "max-retained-ratio",
    "max-trimmable",
    "max-arenas",
    "max-footprint",
    "max-unexplained-ratio",
]
FIGURES: dict[LimitKey, str] = {
    "max-retained": "retained_bytes",
    "max-retained-ratio": "retained_ratio",
    "max-trimmable": "trimmable_bytes",
    "max-arenas": "arena_count",
    "max-footprint": "footprint_bytes",
    "max-unexplained-ratio": "unexplained_ratio",
}
"""What each limit is held against. Retained: resident bytes that glibc holds free (bins, tops,
fastbins, thread caches); its ratio, and that of the unexplained, is of RSS."""


@immutable
class Limit:
    """The most that is allowed: bytes, a count or a ratio, as the figure's name says."""

    key: LimitKey
    most: int | float


@immutable
class Verdict:
    """One limit held against one process.

    ``says``: what the figure consists of. ``causes``: those of ``explain`` that bear on this
    figure, the weightiest first, where the limit is exceeded (of a recording those that lie in
    malloc, of a core none). ``remedies``:
    what can be done besides the causes' own."""

    key: LimitKey
    figure: str
    most: int | float
    found: int | float
    exceeded: bool
    says: tuple[str, ...]
    causes: tuple[Cause, ...]
    remedies: tuple[Remedy, ...]


@immutable
class GateData:
    """The data of ``check``. ``rss_bytes`` is None for a core, which does not tell it."""

    rss_bytes: int | None
    exceeded_count: int
    limits: tuple[Verdict, ...]
