"""Zeros in huge pages: counted to the page where few are looked at, and by a sample where many."""

from __future__ import annotations

from typing import Any

from unit.situations import holding

from allocscope.errors import MemoryGap
from allocscope.model.walk import Residency
from allocscope.owners.huge import HUGE_PAGE, MOST_LOOKED_AT, huge_use

PAGE = 4096


class Memory:
    """Huge pages whose first ``written`` small pages are not zero; those in ``gone`` change while
    they are looked at."""

    def __init__(self, written: int, gone: frozenset[int] = frozenset()) -> None:
        self.written = written
        self.gone = gone
        self.read_count = 0

    def read(self, address: int, size: int) -> bytes:
        if address in self.gone:
            raise MemoryGap("gone")
        self.read_count += 1
        return b"x" * (self.written * PAGE) + bytes(size - self.written * PAGE)


def all_huge(start: int, end: int) -> Residency:
    return Residency(end - start, 0, end - start, 0)


def huge(count: int, start: int = 0) -> Any:
    size = count * HUGE_PAGE
    return holding("unexplained", 0, start=start, end=start + size, huge_bytes=size)


def test_all_of_a_few_are_looked_at() -> None:
    parts = [holding("unexplained", 1), huge(3, start=PAGE * 512), huge(2, start=1 << 30)]
    found = huge_use(Memory(written=12), parts, all_huge)  # type: ignore[arg-type]
    assert (found.huge_bytes, found.looked_at_bytes) == (5 * HUGE_PAGE, 5 * HUGE_PAGE)
    assert found.zero_bytes == ((1, 3 * 500 * PAGE), (2, 2 * 500 * PAGE))


def test_of_many_some_stand_for_the_others() -> None:
    memory = Memory(written=256)
    found = huge_use(memory, [huge(1000)], all_huge)  # type: ignore[arg-type]
    assert memory.read_count == found.looked_at_bytes // HUGE_PAGE <= MOST_LOOKED_AT
    assert found.zero_bytes == ((0, 500 * HUGE_PAGE),)


def test_what_is_not_huge_or_goes_meanwhile_is_left_out() -> None:
    memory = Memory(written=0, gone=frozenset({HUGE_PAGE}))

    def half(start: int, end: int) -> Residency:
        return all_huge(start, end) if start < 2 * HUGE_PAGE else Residency(end - start, 0, 0, 0)

    found = huge_use(memory, [huge(4)], half)  # type: ignore[arg-type]
    assert found.zero_bytes == ((0, HUGE_PAGE),)
    assert found.looked_at_bytes == HUGE_PAGE
