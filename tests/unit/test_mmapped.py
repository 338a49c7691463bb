"""Chunks with a mapping of their own, found by their headers."""

from __future__ import annotations

import pytest
from unit.mallocs import MAPPINGS, PAGE, Malloc

from allocscope.glibc.mmapped import chunk_length, find_mmapped

OLD, NEW = "2.36", "2.43"


def find(malloc: Malloc, spans: list[tuple[int, int]] | None = None) -> list[tuple[int, int]]:
    with malloc.memory() as memory:
        return find_mmapped(
            memory,
            malloc.mappings if spans is None else spans,
            malloc.release.mmap_size_is_usable,
            len(malloc.mappings),
            sum(end - start for start, end in malloc.mappings),
        )


def test_the_two_ways_in_which_headers_tell_the_length() -> None:
    """malloc(1 MiB) and memalign(64 KiB, 1 MiB), as seen in processes of 2.36 and 2.44."""
    assert chunk_length(0, 0x101002, 0, False) == 0x101000
    assert chunk_length(0, 0x100FF2, 0, True) == 0x101000
    assert chunk_length(0xEFF0, 0x102012, 0xEFF0, False) == 0x111000
    assert chunk_length(0x4FF0, 0x10C002, 0x4FF0, True) == 0x111000
    assert chunk_length(1, 0x1FFFF2, 0, True) == 0x200000  # MAP_HUGETLB


@pytest.mark.parametrize(
    ("prev_size", "word", "offset"),
    [
        (0, 0x101000, 0),  # not mmapped
        (0, 0x101003, 0),  # and in use
        (0, 0x101006, 0),  # and of a thread arena
        (16, 0x101002, 0),  # begins elsewhere
        (0, 0x100FF2, 0),  # no whole pages
        (0, 2, 0),  # empty
        (0x10, 0x1002, 0x20),  # another offset
    ],
)
def test_words_that_are_no_header(prev_size: int, word: int, offset: int) -> None:
    assert chunk_length(prev_size, word, offset, False) == 0


@pytest.mark.parametrize("version", [OLD, NEW])
def test_each_in_a_mapping_of_its_own_and_neighbours_in_one(version: str) -> None:
    malloc = Malloc(version)
    malloc.mapping(0x21000)
    malloc.mapping(0x22000, gap=0x8000)
    for length in (0x30000, 0x1000, 0x2000):
        malloc.mapping(length, gap=0)
    first, *others = malloc.mappings
    joined = (others[0][0], others[-1][1])
    assert find(malloc, [first, joined]) == malloc.mappings
    assert find(malloc) == malloc.mappings


@pytest.mark.parametrize("version", [OLD, NEW])
@pytest.mark.parametrize("offset", [0x10, 0x30, 0xFF0, 0x1FF0, 0xEFF0, 0x1FEFF0])
def test_where_memalign_put_it(version: str, offset: int) -> None:
    malloc = Malloc(version)
    malloc.mapping(0x21000)
    malloc.mapping(0x200000 + 0x21000, offset=offset)
    malloc.mapping(0x3000, gap=0)
    spans = [malloc.mappings[0], (malloc.mappings[1][0], malloc.mappings[2][1])]
    assert find(malloc, spans) == malloc.mappings


@pytest.mark.parametrize("version", [OLD, NEW])
@pytest.mark.parametrize("others_offset", [0, 0x30])
def test_another_chunk_where_realloc_gave_memory_back(version: str, others_offset: int) -> None:
    """The header that memalign left at the start still tells the length of before, which is now
    that of both."""
    malloc = Malloc(version)
    start = malloc.mapping(0x21000, offset=0xFF0)
    malloc.mapping(0x5000, gap=0, offset=others_offset)
    malloc.mapping(0x3000, gap=0)
    stale = 0x26000 - (16 if malloc.release.mmap_size_is_usable else 0)
    malloc.image.words(start, 0, stale | 2)
    assert find(malloc, [(start, malloc.mappings[-1][1])]) == malloc.mappings


def test_huge_pages_of_2_43() -> None:
    malloc = Malloc(NEW)
    malloc.mapping(0x200000, hugetlb=True)
    malloc.mapping(0x400000, gap=0, hugetlb=True)
    assert find(malloc) == malloc.mappings


def test_one_behind_somebody_elses_mapping() -> None:
    malloc = Malloc(OLD)
    malloc.mapping(0x21000)
    malloc.mapping(0x5000, gap=0x8000)
    low, high = malloc.mappings[1]
    malloc.image.words(low - 0x8000 + PAGE, *[0x99] * 600)
    spans = [malloc.mappings[0], (low - 0x7000, high)]
    assert find(malloc, spans) == malloc.mappings


def test_a_length_that_reaches_out_of_the_mapping_is_none() -> None:
    malloc = Malloc(OLD)
    start = malloc.mapping(0x21000)
    assert find(malloc, [(start, start + 0x20000)]) == []
    malloc.image.words(start + 8, ((1 << 64) - PAGE) | 2)
    assert find(malloc) == []


def test_with_all_found_nothing_more_is_searched() -> None:
    malloc = Malloc(OLD)
    malloc.mapping(0x21000)
    start = malloc.mapping(0x3000)
    del malloc.mappings[1]  # glibc freed it; the bytes are somebody else's now
    assert find(malloc, [*malloc.mappings, (start, start + 0x3000)]) == malloc.mappings
    assert find(Malloc(OLD), []) == []


def test_pages_that_are_not_there() -> None:
    malloc = Malloc(OLD)
    for _ in range(3):
        malloc.mapping(0x21000)
    start, end = malloc.mappings[1]
    malloc.image.state(start, end, 0)
    assert find(malloc) == [malloc.mappings[0], malloc.mappings[2]]
    assert malloc.mappings[0][0] == MAPPINGS
