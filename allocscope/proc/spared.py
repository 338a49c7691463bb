"""A live process's memory in which some pages are taken for absent, whatever is there.

For lazily freed pages: what the kernel may take at any time is no evidence of anything, and a read
counts as a use of the page, which keeps it in memory longer (mark_page_accessed in mm/swap.c).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from allocscope.errors import MemoryGap
from allocscope.proc.memory import ProcessMemory
from allocscope.proc.pages import Span


class SparingMemory(ProcessMemory):
    """``spared``: ascending runs of pages that are not read."""

    def __init__(self, pid: int, spared: Iterable[Span]) -> None:
        super().__init__(pid)
        self._starts, self._ends = array("Q"), array("Q")
        for start, end in spared:
            self._starts.append(start)
            self._ends.append(end)

    def read(self, address: int, size: int) -> bytes:
        if self._touches(address, size):
            raise MemoryGap(f"the page at {address:#x} is lazily freed")
        return super().read(address, size)

    def read_each(self, addresses: Sequence[int], size: int) -> list[bytes | None]:
        allowed = [address for address in addresses if not self._touches(address, size)]
        found = iter(super().read_each(allowed, size))
        return [None if self._touches(address, size) else next(found) for address in addresses]

    def runs(self, start: int, end: int) -> list[Span]:
        return [left for run in super().runs(start, end) for left in self._left_of(*run)]

    def _touches(self, address: int, size: int) -> bool:
        last = bisect_right(self._starts, address + size - 1) - 1
        return last >= 0 and self._ends[last] > address

    def _left_of(self, start: int, end: int) -> Iterator[Span]:
        first = max(bisect_right(self._starts, start) - 1, 0)
        for index in range(first, bisect_right(self._starts, end - 1)):
            if self._starts[index] > start:
                yield start, self._starts[index]
            start = max(start, self._ends[index])
        if start < end:
            yield start, end
