"""The two things that reading a heap needs from its surroundings: memory, and the walk over it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from allocscope.glibc.abi import Abi
from allocscope.model.walk import Region, Residency, Tally
from allocscope.typed import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Memory(Protocol):
    """Memory of one process, core or recording. Reading never changes the target: absent pages are
    left alone."""

    abi: Abi
    """How words and chunks lie in it: set by who finds out."""

    def read(self, address: int, size: int) -> bytes:
        """Exactly ``size`` bytes. MemoryGap where a page is absent, swapped out or unreadable."""

    def read_each(self, addresses: Sequence[int], size: int) -> list[bytes | None]:
        """``size`` bytes at each address; None where that failed."""

    def keeping(self, rows: Iterable[tuple[int, int]], top: int) -> AbstractContextManager[None]:
        """Reads rows of chunks, each from its first chunk to its limit, and keeps the headers:
        within the block lists through them are followed, and these rows walked, without reading
        them again. As far as there is room and chunks make sense; ``top`` ends a row."""

    def runs(self, start: int, end: int) -> list[tuple[int, int]]:
        """The present pages of ``[start, end)`` as ascending ``(start, end)`` pairs."""

    def residency(self, start: int, end: int) -> Residency:
        """Page states of ``[start, end)``."""

    def chase(
        self,
        heads: Sequence[int],
        *,
        link_offset: int,
        mangled: bool,
        limit: int,
        ends: Sequence[int] | None = None,
    ) -> list[tuple[Sequence[int], bool]]:
        """Follows singly linked lists: for each head the elements, and whether the list ended as it
        should (in ``ends``, 0 by default)."""

    def sort(self, addresses: array[int]) -> None:
        """Sorts the array in place, ascending."""


class Walker(Protocol):
    """The native walk (probes/), over the same memory."""

    @property
    def keeps_doubts(self) -> bool:
        """Can it walk rows of which it is not known which chunks are in fastbins?"""

    def walk(self, region: Region) -> Tally:
        """Walks one row of chunks."""

    def settle(self, tallies: Sequence[Tally], heads: Sequence[int]) -> list[Tally] | None:
        """Follows an arena's fastbins from their heads among the chunks in doubt of all its rows:
        what these chunks add to each row's sums. None where a list leads to any other chunk, or in
        a circle, or where they were too many to be kept."""

    def chain_reaches(self, address: int, limit: int, known: Sequence[int]) -> bool:
        """Does a row of plausible chunks lead from ``address`` exactly to one of ``known``, to
        ``limit``, or to fenceposts that end a page?"""

    def row_start(self, low: int, high: int, limit: int, known: Sequence[int]) -> int | None:
        """The first address in ``[low, high)`` from which plausible chunks lead on like that: where
        a row begins behind foreign memory. None where there is no such address."""

    def each(
        self, items: Sequence[Item], work: Callable[[Memory, Walker, Item], Result]
    ) -> list[Result]:
        """``work(memory, walker, item)`` for every item, side by side where that is quicker; the
        results in the order of the items. ``memory`` and ``walker`` are for that call, and see the
        same memory as this one."""

    def hash_sum(self, addresses: Sequence[int]) -> int:
        """The sum, modulo 2**64, of the walk's hash over the addresses."""
