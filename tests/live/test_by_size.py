"""The largest free chunks and the sizes that hold the most pages, against a slow walk of the same
process and the kernel's page states."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest
from live import pages
from live.cli import command
from oracle import locate, walk
from oracle.layout import layout_for
from oracle.memory import Memory

from allocscope import observe
from allocscope.lab.fixture import RunningFixture

FIRST_FEW = 10
LARGEST_EXACT = 1040
"""Up to here each chunk size is a class of its own."""


@pytest.fixture(params=["scattered", "pinned-top", "arena-spread"])
def target(request: pytest.FixtureRequest, running: Callable[..., RunningFixture]) -> int:
    return running(request.param, scale=0.3).pid


def arenas_of(pid: int) -> list[walk.Sums]:
    with Memory(pid) as memory:
        layout = layout_for(locate.glibc_minor(pid))
        return walk.walk(memory, layout, *locate.from_bytes(memory, layout))


def resident_pages(pid: int) -> set[int]:
    zero = pages.zero_pages(pid)
    if zero is None:
        pytest.skip("this kernel has no PAGEMAP_SCAN")
    there = pages.there(pid)
    return {page for page, state in there.items() if state & pages.PRESENT} - zero


def touched(start: int, size: int) -> range:
    return range(start // pages.PAGE * pages.PAGE, start + size, pages.PAGE)


def test_the_largest_free_chunks(target: int) -> None:
    resident = resident_pages(target)

    def resident_bytes(start: int, size: int) -> int:
        parts = (
            min(start + size, page + pages.PAGE) - max(start, page)
            for page in touched(start, size)
            if page in resident
        )
        return sum(parts)

    free = [
        (size, address, index, kind == "top")
        for index, arena in enumerate(arenas_of(target))
        for address, size, kind in [*arena.chunks, (arena.top, arena.top_bytes, "top")]
        if kind in ("bin", "top")
    ]
    free = sorted(set(free), key=lambda row: (-row[0], row[1]))[:FIRST_FEW]
    found = observe(target).data.largest_free
    assert [(f.size_bytes, f.address, f.arena_index, f.is_top) for f in found] == free
    assert [f.resident_bytes for f in found] == [resident_bytes(a, s) for s, a, _, _ in free]


def test_the_sizes_that_hold_the_most_pages(target: int) -> None:
    resident = resident_pages(target)
    held: defaultdict[int, set[int]] = defaultdict(set)
    live: defaultdict[int, int] = defaultdict(int)
    for arena in arenas_of(target):
        for address, size, kind in arena.chunks:
            if kind == "live" and size <= LARGEST_EXACT:
                held[size].update(page for page in touched(address, size) if page in resident)
                live[size] += 1
    ranked = sorted(held, key=lambda size: (-len(held[size]), size))
    found = observe(target).data.page_holders
    small = [row for row in found if row.max_bytes <= LARGEST_EXACT]
    assert small
    assert [row.min_bytes for row in small] == ranked[: len(small)]
    for row in small:
        assert (row.pages_held, row.live_count) == (len(held[row.min_bytes]), live[row.min_bytes])
        assert row.held_bytes == row.pages_held * pages.PAGE
    assert [row.pages_held for row in found] == sorted((r.pages_held for r in found), reverse=True)


def test_one_free_chunk_is_what_the_program_gave_back(
    running: Callable[..., RunningFixture],
) -> None:
    fixture = running("pinned-top", scale=0.3)
    largest = observe(fixture.pid).data.largest_free[0]
    given_back = fixture.truth["freed_bytes"]
    assert given_back is not None
    assert given_back <= largest.size_bytes < given_back + 64 * 1024
    assert not largest.is_top


def test_the_page_for_people(target: int) -> None:
    done = command("arenas", str(target), "--by", "size")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Live chunks that hold the most pages" in done.stdout
    assert "The largest free chunks" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
