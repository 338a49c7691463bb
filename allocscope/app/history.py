"""The samples of a recording as a series: the ledger of each.

Strategy: every sample is read as ``explain`` reads one. Of a long recording MOST_MOMENTS are,
evenly spread, the first and the last among them. Rule: what is left out, because it could not be
read or because time was up, is said.
"""

from __future__ import annotations

import time
from pathlib import Path

from allocscope.app.explain_file import survey_sample
from allocscope.errors import NoGlibcHeap
from allocscope.files.recording import Recording
from allocscope.model.history import History, Moment
from allocscope.model.report import Caveat
from allocscope.units import plural

MOST_MOMENTS = 240


def history(
    path: Path, *, shown: int | None, deadline_s: float
) -> tuple[History, tuple[Caveat, ...]]:
    """The series of a recording, and what it lacks. ``shown``: the sample that is explained,
    the last by default; ``deadline_s``: seconds after which no further sample is read. Raises
    BadInput (9)."""
    deadline_ns = time.monotonic_ns() + int(deadline_s * 1e9)
    moments: list[Moment] = []
    unread: list[int] = []
    with Recording(path) as recording:
        count = recording.sample_count
        wanted = _spread(count, MOST_MOMENTS)
        for number in wanted:
            if time.monotonic_ns() > deadline_ns:
                break
            found = recording.sample(number)
            try:
                with found.memory:
                    ledger = survey_sample(found, path, False, deadline_ns).data.ledger
            except NoGlibcHeap:
                unread.append(number)
                continue
            at = found.facts.captured_at
            moments.append(Moment(number, at, ledger.rss_bytes, ledger.rows, ledger.drift_bytes))
    read = len(moments) + len(unread)
    told = History(tuple(moments), count, count if shown is None else shown)
    return told, _caveats(wanted[read:], unread)


def _spread(count: int, most: int) -> list[int]:
    """``most`` numbers from 1 to ``count``, evenly spread; all of them where there are no more."""
    if count <= most:
        return list(range(1, count + 1))
    return [1 + step * (count - 1) // (most - 1) for step in range(most)]


def _caveats(late: list[int], unread: list[int]) -> tuple[Caveat, ...]:
    found = []
    if late:
        text = (
            f"The deadline came before {plural(len(late), 'sample')}, from {late[0]} on, could be "
            "read for the chart; raise --deadline."
        )
        found.append(Caveat("series-cut", text, partial=True))
    if unread:
        text = (
            f"{plural(len(unread), 'sample')} could not be read for the chart: in them no malloc "
            f"was found (the first is {unread[0]})."
        )
        found.append(Caveat("series-gaps", text))
    return tuple(found)
