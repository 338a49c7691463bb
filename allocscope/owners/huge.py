"""What transparent huge pages hold that nobody wrote.

Strategy: the kernel fills a huge page with zeros, 2 MiB at once, where the first byte is touched;
what stays a small page of zeros has most likely not been written to. So huge pages are read and
their small pages compared with zero.

Rules: at most MOST_LOOKED_AT huge pages are read, evenly spread where there are more, and stand for
the others; nothing that is read is kept; one that changes meanwhile is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from allocscope.errors import MemoryGap
from allocscope.glibc.protocols import Memory
from allocscope.model.owners import Holding
from allocscope.model.situation import HugeUse
from allocscope.owners.divide import Resident

HUGE_PAGE = 2 << 20
PAGE = 4096
ZEROS = bytes(PAGE)
MOST_LOOKED_AT = 128


def huge_use(memory: Memory, holdings: Sequence[Holding], resident: Resident) -> HugeUse:
    """Of all private anonymous memory. ``resident``: the states of whole pages."""
    places = list(_places(holdings))
    step = max(1, -(-len(places) // MOST_LOOKED_AT))
    zeros: dict[int, int] = {}
    looked_at = 0
    for number, place in places[::step]:
        if resident(place, place + HUGE_PAGE).huge_bytes < HUGE_PAGE:
            continue
        try:
            data = memory.read(place, HUGE_PAGE)
        except MemoryGap:
            continue
        looked_at += HUGE_PAGE
        zeros[number] = zeros.get(number, 0) + step * _zero_bytes(data)
    return HugeUse(
        huge_bytes=sum(holding.huge_bytes or 0 for holding in holdings),
        looked_at_bytes=looked_at,
        zero_bytes=tuple(sorted(zeros.items())),
    )


def _places(holdings: Sequence[Holding]) -> Iterator[tuple[int, int]]:
    """Where a huge page may be: the holding's number and the address."""
    for number, holding in enumerate(holdings):
        if holding.huge_bytes:
            first = -(-holding.start // HUGE_PAGE) * HUGE_PAGE
            for place in range(first, holding.end - HUGE_PAGE + 1, HUGE_PAGE):
                yield number, place


def _zero_bytes(data: bytes) -> int:
    return PAGE * sum(data[at : at + PAGE] == ZEROS for at in range(0, len(data), PAGE))
