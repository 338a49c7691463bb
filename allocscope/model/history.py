"""A recording over time: the ledger, sample by sample."""

from __future__ import annotations

from allocscope.immutable import immutable
from allocscope.model.ledger import LedgerRow


@immutable
class Moment:
    """One sample: its number, counted from 1, when it was taken (seconds since 1970), and its
    ledger, whose rows and ``drift_bytes`` sum to ``rss_bytes``."""

    sample: int
    captured_at_s: float
    rss_bytes: int
    rows: tuple[LedgerRow, ...]
    drift_bytes: int


@immutable
class History:
    """The samples that were looked at, by their number, of ``sample_count`` that there are.
    ``shown``: the one that the explanation is of."""

    moments: tuple[Moment, ...]
    sample_count: int
    shown: int
