"""Where a heap contradicts itself: a word in memory that is not what it must be."""

from __future__ import annotations

from allocscope.immutable import field, immutable
from allocscope.model.fields import HEX


@immutable
class Damage:
    """``kind``: chunk-size, chunk-footer, in-use-flag, top-size, bin-link, fastbin-link,
    tcache-entry. ``arena_index``: the arena that it belongs to, None for a tcache, which belongs
    to a thread. ``address``: where the wrong word lies; ``expected`` and ``found`` say in words and
    in hex what should stand there and what does. ``after``: the chunk in front of it, which is
    what an overflow usually comes from; None where that is not known."""

    kind: str
    arena_index: int | None
    address: int = field(metadata=HEX)
    expected: str
    found: str
    after: int | None = field(metadata=HEX, default=None)
