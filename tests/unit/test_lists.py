"""glibc's lists, followed as glibc follows them, also where a thread is just linking a chunk."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from unit.mallocs import BRK, Malloc

from allocscope.glibc.layouts import StateLayout
from allocscope.glibc.lists import BK, FD, binned, closed
from allocscope.glibc.protocols import Memory
from allocscope.glibc.states import ArenaState, read_state

SIZE = 0x200
UNTOUCHED = 0x7E0000000000


def with_three_free_chunks() -> tuple[Malloc, list[int]]:
    """A main arena with three free chunks of one size in one bin, and their addresses."""
    malloc = Malloc("2.36")
    chunks = []
    for _ in range(3):
        malloc.main.row.live(0x400)
        chunks.append(malloc.main.row.free(SIZE).address)
    malloc.main.row.live(0x400)
    malloc.main.end_at_page()
    return malloc.write(), chunks


def followed(
    malloc: Malloc, question: Callable[[Memory, ArenaState, StateLayout], object]
) -> object:
    with malloc.memory() as memory:
        found = malloc.locate(memory)
        assert found is not None
        layout = found.layout.state
        return question(memory, read_state(memory, found.main_arena, layout), layout)


def counts(malloc: Malloc) -> tuple[int, int]:
    """How many chunks the bins hold by fd, and by bk."""

    def question(memory: Memory, state: ArenaState, layout: StateLayout) -> tuple[int, int]:
        forward = binned(memory, state, layout, FD)
        backward = binned(memory, state, layout, BK)
        assert {word & ~7 for word in forward + backward} == {SIZE}
        return len(forward), len(backward)

    found = followed(malloc, question)
    assert isinstance(found, tuple)
    return found


def test_a_bin_at_rest() -> None:
    malloc, _ = with_three_free_chunks()
    assert counts(malloc) == (3, 3)
    assert followed(malloc, closed) is True


def test_a_chunk_half_unlinked_counts_in_one_direction() -> None:
    """unlink_chunk writes fd->bk, then bk->fd."""
    malloc, (first, middle, last) = with_three_free_chunks()
    malloc.image.words(last + 8 * BK, first)
    assert counts(malloc) == (3, 2)
    assert followed(malloc, closed) is True
    malloc.image.words(first + 8 * FD, last)
    assert counts(malloc) == (2, 2)
    assert middle not in (first, last)


@pytest.mark.parametrize("link", [FD, BK])
@pytest.mark.parametrize("stale", [0, UNTOUCHED, BRK + 0x408], ids=["null", "absent", "unaligned"])
def test_a_chunk_whose_own_link_is_not_yet_written_is_a_dead_end(link: int, stale: int) -> None:
    malloc, (_, middle, _) = with_three_free_chunks()
    malloc.image.words(middle + 8 * link, stale)
    assert followed(malloc, closed) is False


def test_a_stale_link_that_leads_round_in_a_circle() -> None:
    malloc, (first, middle, _) = with_three_free_chunks()
    malloc.image.words(middle + 8 * FD, first)
    assert followed(malloc, closed) is False
