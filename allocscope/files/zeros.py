"""Page runs of a core's segments: which pages are there, and which of them hold nothing but zeros.

A core tells no page states. But whoever writes one writes zeros where a page was never touched, or
was given back (``madvise``, malloc_trim): such pages count as the kernel's zero page does, as
readable and not resident. A page that was resident and all zeros cannot be told from them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from allocscope.errors import BadInput
from allocscope.files.spans import PAGE, PRESENT

ZERO = 4
_BLOCK_BYTES = 256 * PAGE
_ZEROS = bytes(PAGE)
_ZERO_BLOCK = bytes(_BLOCK_BYTES)


def page_runs(descriptor: int, spans: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """``(start, end, flags)``, flags as in probes/include/source.h, ascending and joined.

    ``spans``: ascending ``(address, offset in the file, bytes)``, of whole pages. They are read,
    not mapped, so that memory stays small. Raises BadInput."""
    runs: list[tuple[int, int, int]] = []
    for address, offset, size in spans:
        for start, end, zero in _pieces(descriptor, offset, size):
            flags = PRESENT | ZERO if zero else PRESENT
            low, high = address + start, address + end
            if runs and runs[-1][1:] == (low, flags):
                low = runs.pop()[0]
            runs.append((low, high, flags))
    return runs


def _pieces(descriptor: int, offset: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """Parts of the span, as ``(start, end, all zeros)`` from its beginning; neighbours may be
    alike."""
    for at in range(0, size, _BLOCK_BYTES):
        wanted = min(_BLOCK_BYTES, size - at)
        block = os.pread(descriptor, wanted, offset + at)
        if len(block) < wanted:
            raise BadInput("the file became shorter while it was read")
        if block == _ZERO_BLOCK:
            yield at, at + len(block), True
            continue
        start, zero = 0, block[:PAGE] == _ZEROS
        for page in range(PAGE, len(block), PAGE):
            if (block[page : page + PAGE] == _ZEROS) != zero:
                yield at + start, at + page, zero
                start, zero = page, not zero
        yield at + start, at + len(block), zero
