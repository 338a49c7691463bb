"""Following singly linked lists (as_chase)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from unit.heaps import PAGE, SWAPPED, Image, linked

AT = 0x7F7800000000


def image_of(pages: int = 4) -> Image:
    image = Image()
    image.touch(AT, AT + pages * PAGE)
    return image


def chase(
    image: Image,
    heads: Sequence[int],
    *,
    mangled: bool = False,
    limit: int = 1000,
    link_offset: int = 0,
    ends: Sequence[int] | None = None,
) -> list[tuple[list[int], bool]]:
    """The answer, the same with and without keeping what look like headers."""

    def ask() -> list[tuple[list[int], bool]]:
        found = memory.chase(
            heads, link_offset=link_offset, mangled=mangled, limit=limit, ends=ends
        )
        return [(list(elements), whole) for elements, whole in found]

    with image.memory() as memory:
        answer = ask()
        with memory.keeping([(AT, AT + 4 * PAGE)], 0):
            assert ask() == answer
    return answer


@pytest.mark.parametrize("mangled", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7, 500])
def test_a_list_from_head_to_end(mangled: bool, length: int) -> None:
    image = image_of()
    pointers = [AT + 0x10 + 32 * (i * 11 % length) for i in range(length)]
    head = linked(image, pointers, mangled=mangled)
    assert chase(image, [head], mangled=mangled) == [(pointers, True)]
    assert chase(image, [head], mangled=mangled, limit=length) == [(pointers, True)]


def test_the_link_of_a_fastbin_lies_behind_the_chunks_header() -> None:
    image = image_of()
    chunks = [AT + 0x40, AT + 0x1000, AT + 0x80]
    head = linked(image, chunks, mangled=True, link_offset=16)
    assert chase(image, [head], mangled=True, link_offset=16) == [(chunks, True)]


def test_the_wrong_reading_of_links_does_not_end_well() -> None:
    for mangled in (False, True):
        image = image_of()
        pointers = [AT + 0x100, AT + 0x240, AT + 0x30]
        head = linked(image, pointers, mangled=mangled)
        [(found, whole)] = chase(image, [head], mangled=not mangled)
        assert (found, whole) == (pointers[:1], False)


def test_no_lists_and_empty_lists() -> None:
    assert chase(image_of(), []) == []
    assert chase(image_of(), [0, 0]) == [([], True), ([], True)]


def test_a_list_longer_than_the_limit_is_cut_there() -> None:
    image = image_of()
    pointers = [AT + 16 * i for i in range(1, 20)]
    head = linked(image, pointers, mangled=True)
    assert chase(image, [head], mangled=True, limit=18) == [(pointers[:18], False)]
    assert chase(image, [head], mangled=True, limit=0) == [([], False)]


@pytest.mark.parametrize("bad", [AT + 4 * PAGE, AT + 0x48, 8, 16, (1 << 47) - 16, (1 << 64) - 16])
def test_a_link_to_where_nothing_is_breaks_its_list_only(bad: int) -> None:
    image = image_of()
    good = [AT + 0x10 + 64 * i for i in range(6)]
    heads = [linked(image, good, mangled=False), AT + 0x1010, bad]
    image.words(AT + 0x1010, AT + 0x2010)
    image.words(AT + 0x2010, bad)
    assert chase(image, heads) == [(good, True), ([AT + 0x1010, AT + 0x2010], False), ([], False)]


def test_a_link_on_a_page_that_is_swapped_out() -> None:
    image = image_of()
    head = linked(image, [AT + 0x10, AT + 0x1010, AT + 0x2010], mangled=False)
    image.state(AT + 0x1000, AT + 0x2000, SWAPPED)
    assert chase(image, [head]) == [([AT + 0x10], False)]


@pytest.mark.parametrize("lead", [0, 1, 2, 5, 40])
@pytest.mark.parametrize("circle", [1, 2, 3, 8, 50])
def test_a_circle_is_noticed_long_before_the_limit(lead: int, circle: int) -> None:
    image = image_of()
    pointers = [AT + 0x10 + 32 * i for i in range(lead + circle)]
    head = linked(image, pointers, mangled=False)
    image.words(pointers[-1], pointers[lead])
    [(found, whole)] = chase(image, [head], limit=1 << 60)
    assert not whole
    assert found[: lead + circle] == pointers
    assert len(found) <= 6 * (lead + circle)


def test_circular_lists_end_in_their_own_heads() -> None:
    image = image_of()
    bins = [AT + 0x3008 + 16 * i for i in range(3)]  # not aligned like chunks
    lists = [[AT + 0x100], [AT + 0x200, AT + 0x1300, AT + 0x280], []]
    heads = []
    for here, chunks in zip(bins, lists, strict=True):
        ring = [*chunks, here]
        for chunk, following in zip(chunks, ring[1:], strict=True):
            image.words(chunk + 16, following)
        heads.append(ring[0])
    assert chase(image, heads, link_offset=16, ends=bins) == [(chunks, True) for chunks in lists]
    swapped = [heads[1], heads[0], heads[2]]
    wrong_ends = chase(image, swapped, link_offset=16, ends=bins)
    assert [whole for _, whole in wrong_ends] == [False, False, True]


def test_many_lists_of_very_different_lengths() -> None:
    image = image_of(64)
    slots = iter(range(AT + 0x10, AT + 64 * PAGE, 16))
    lists = [[next(slots) for _ in range(i * i % 97)] for i in range(300)]
    heads = [linked(image, pointers, mangled=True) for pointers in lists]
    assert chase(image, heads, mangled=True) == [(pointers, True) for pointers in lists]


def test_elements_all_over_the_address_space() -> None:
    """More 64 MiB pieces than page states are remembered for at a time."""
    image = Image()
    pointers = [0x10 + (i << 28) + (i % 7 << 12) for i in range(1, 600)]
    image_pages = [pointer // PAGE * PAGE for pointer in pointers]
    for page in image_pages:
        image.touch(page, page + PAGE)
    head = linked(image, pointers, mangled=True)
    assert chase(image, [head], mangled=True) == [(pointers, True)]
