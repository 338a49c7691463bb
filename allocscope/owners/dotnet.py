"""The garbage-collected heap of .NET: segments that describe themselves.

Strategy: up to .NET 6 the heap is in segments, and a segment begins with its own description
(heap_segment): how far it is allocated, committed, reserved and used, where its objects begin,
flags, and the next segment. What is committed is readable, what is only reserved is not, so the
kernel's mapping begins where the description lies and ends where that says. A segment that is
committed to its end may have the next one right behind it.

Rules: all of that must fit. From .NET 7 on regions took the place of segments; their descriptions
lie elsewhere and are not known here.

Source: gcpriv.h of CoreCLR (class heap_segment); .NET Core 3.1.23 as it runs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from allocscope.glibc.protocols import Memory
from allocscope.model.owners import Claim

PAGE = 4096
SEGMENT = struct.Struct("<7Q")
MOST_BEFORE_OBJECTS = 1 << 16
ALL_FLAGS = (1 << 16) - 1
Span = tuple[int, int]


def claims(memory: Memory, spans: Sequence[Span]) -> Iterator[Claim]:
    """Claims within ``spans``: anonymous memory that nobody else owns."""
    starts = memory.read_each([start for start, _ in spans], SEGMENT.size)
    for (start, end), data in zip(spans, starts, strict=True):
        while data is not None:
            committed, reserved = _ends(start, end, data)
            if not committed:
                break
            evidence = (
                f"a segment's description at {start:#x} says that it is committed up to "
                f"{committed:#x} and reserved up to {reserved:#x}"
            )
            yield Claim(start, committed, "runtime-heap", ".NET heap", evidence)
            start = committed
            [data] = memory.read_each([start], SEGMENT.size) if start < end else [None]


def _ends(start: int, end: int, data: bytes) -> Span:
    """How far the segment at ``start`` is committed and reserved; zeros where there is none. Only
    one that is committed to its end has something readable behind it."""
    allocated, committed, reserved, used, objects, flags, following = SEGMENT.unpack(data)
    fits = (
        start < objects <= start + MOST_BEFORE_OBJECTS
        and objects <= allocated <= committed
        and objects <= used <= committed
        and (committed == end or committed == reserved < end)
        and committed <= reserved
        and committed % PAGE == reserved % PAGE == following % PAGE == 0
        and flags <= ALL_FLAGS
    )
    return (committed, reserved) if fits else (0, 0)
