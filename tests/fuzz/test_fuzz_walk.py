"""The native walk, lists and chains over memory that nobody made for them."""

from __future__ import annotations

import contextlib
import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
from unit import rows
from unit.heaps import PAGE, PRESENT, Image, figures

from allocscope.errors import AllocscopeError
from allocscope.glibc import parts
from allocscope.glibc.abi import NARROW, NARROW_TO_2_25, WIDE, Abi
from allocscope.model.walk import FastLists, Region

AT = 0x7F3300000000
PAGES = 6
END = AT + PAGES * PAGE
FUZZ = settings.get_profile("fuzz")

WORDS = st.one_of(
    st.integers(0, 64).map(lambda n: 8 * n),
    st.integers(0, 64).map(lambda n: 16 * n + 1),
    st.integers(0, PAGES * PAGE // 8).map(lambda n: AT + 8 * n),
    st.sampled_from([1 << 47, (1 << 47) - 16, 1 << 63, (1 << 64) - 1, (1 << 64) - 16]),
    st.integers(0, (1 << 64) - 1),
)
PLACES = st.one_of(st.integers(0, PAGES * PAGE // 16).map(lambda n: AT + 16 * n), WORDS)
MARKS = st.lists(PLACES, max_size=6).map(sorted)

ABIS = st.sampled_from([WIDE, NARROW, NARROW_TO_2_25])


@st.composite
def images(draw: st.DrawFn) -> Image:
    """A few pages of words in a pattern that is repeated, so that chains of chunks happen."""
    image = Image()
    image.touch(AT, END)
    pattern = draw(st.lists(WORDS, min_size=1, max_size=24))
    for page in range(PAGES):
        words = [pattern[(page + i) % len(pattern)] for i in range(PAGE // 8)]
        image.words(AT + page * PAGE, *words)
        flags = draw(st.sampled_from([PRESENT, PRESENT, PRESENT, 0, 2, 5, 9, 16]))
        image.state(AT + page * PAGE, AT + (page + 1) * PAGE, flags)
    return image


@st.composite
def regions(draw: st.DrawFn) -> Region:
    edges = st.integers(-4, PAGES * PAGE // 8 + 4).map(lambda n: AT + 8 * n)
    first, limit = draw(edges), draw(edges)
    return Region(
        start=min(first, AT),
        first=first,
        limit=limit,
        map_end=draw(st.sampled_from([END, limit, AT, END + PAGE])),
        top=draw(st.one_of(st.just(0), PLACES)),
        trim_unit=draw(st.sampled_from([0, PAGE, 1, 3, (1 << 64) - 1])),
        trim_pad=draw(st.sampled_from([0, 1, PAGE, (1 << 64) - 1])),
        merge_fastbins=draw(st.booleans()),
        tcache=draw(MARKS),
        fastbin=draw(MARKS),
        tcache_struct=draw(MARKS),
        locked=draw(MARKS),
        known=draw(MARKS),
    )


@settings(FUZZ)
@given(images(), regions(), ABIS)
def test_walking_anything(image: Image, region: Region, abi: Abi) -> None:
    with image.memory() as memory:
        memory.abi = abi
        tally = memory.walk(region)
        if region.limit <= region.map_end:  # else what is kept is more than what is walked
            with memory.keeping([(region.first, region.limit)], region.top):
                assert memory.walk(region) == tally
    length = max(region.limit - region.first, 0)
    counted = tally.live_bytes + tally.tcache_bytes + tally.fastbin_bytes + tally.bin_bytes
    counted += tally.top_bytes + tally.fencepost_bytes + tally.tcache_struct_bytes
    beyond = max(region.limit - tally.stopped_at, 0) if tally.stop_reason == 2 else 0
    assert counted + tally.unread_bytes + beyond == length
    if region.start <= region.first <= region.limit <= region.map_end:
        around = tally.before_resident_bytes + tally.beyond_resident_bytes
        assert tally.row_resident_bytes + around == tally.pages.resident_bytes
    resident = tally.bin_resident_bytes + tally.fastbin_resident_bytes + tally.top_resident_bytes
    assert tally.trimmable_bytes <= resident
    assert tally.pinned_bytes <= tally.bin_resident_bytes + tally.fastbin_resident_bytes


@settings(FUZZ)
@given(images(), regions(), st.lists(PLACES, max_size=4), ABIS)
def test_walking_anything_in_doubt(
    image: Image, region: Region, heads: list[int], abi: Abi
) -> None:
    """Without lists nothing is in a fastbin; with lists what a walk finds that was told of them."""
    sizes = tuple(range(abi.min_chunk_bytes, 11 * abi.header_bytes, abi.header_bytes))
    plain = dataclasses.replace(region, fastbin=(), locked=())
    doubtful = dataclasses.replace(plain, in_doubt=FastLists(sizes, AT, END))
    with image.memory() as memory:
        memory.abi = abi
        memory.maps_pages = False
        without = memory.walk(doubtful)
        [nothing] = memory.settle([without], []) or []
        assert parts.settled(without, nothing) == memory.walk(plain)
        tally = memory.walk(doubtful)
        found = memory.settle([tally], heads)
        if found is not None and not tally.damage_count:
            lists = memory.chase(heads, link_offset=abi.header_bytes, mangled=True, limit=10_000)
            assert all(whole for _, whole in lists)
            fast = sorted(chunk for elements, _ in lists for chunk in elements)
            told = memory.walk(dataclasses.replace(plain, fastbin=fast))
            assert parts.settled(tally, found[0]) == told


@settings(FUZZ)
@given(rows.damaged())
def test_damaged_rows_are_walked_as_the_oracle_walks_them(made: rows.Made) -> None:
    with made.image.memory() as memory:
        assert figures(memory.walk(made.region)) == made.walked_plainly()


@settings(FUZZ)
@given(
    images(),
    st.lists(st.tuples(PLACES, WORDS), min_size=1, max_size=12),
    st.sampled_from([0, 8, 16, 4, -16, -1]),
    st.booleans(),
    st.sampled_from([0, 1, 7, 10_000, (1 << 64) - 1]),
    ABIS,
)
def test_following_anything(
    image: Image,
    heads: list[tuple[int, int]],
    link_offset: int,
    mangled: bool,
    limit: int,
    abi: Abi,
) -> None:
    def ask() -> list[tuple[list[int], bool]]:
        found = memory.chase(
            [head for head, _ in heads],
            link_offset=link_offset,
            mangled=mangled,
            limit=limit,
            ends=[end for _, end in heads],
        )
        return [(list(elements), whole) for elements, whole in found]

    with image.memory() as memory:
        memory.abi = abi
        answer = ask()
        with memory.keeping([(AT, END)], 0):
            assert ask() == answer
    for elements, _ in answer:
        assert len(elements) <= min(limit, 6 * PAGES * PAGE // abi.word_bytes)
        assert all(element % abi.header_bytes == 0 for element in elements)


@settings(FUZZ)
@given(images(), PLACES, PLACES, MARKS, ABIS)
def test_chains_anywhere(
    image: Image, address: int, limit: int, known: list[int], abi: Abi
) -> None:
    with image.memory() as memory:
        memory.abi = abi
        reached = memory.chain_reaches(address, limit, known)
        if address > limit or (address < limit and not AT <= address < END):
            assert not reached
        start = memory.row_start(AT, END, limit, known)
        if start is not None:
            assert AT <= start < min(END, limit)
            assert abi.is_chunk(start)
            assert memory.chain_reaches(start, limit, known)


@settings(FUZZ)
@given(images(), st.lists(PLACES, max_size=20), st.integers(0, 3 * PAGE))
def test_reading_anywhere(image: Image, addresses: list[int], size: int) -> None:
    with image.memory() as memory:
        each = memory.read_each(addresses, size)
        for address, data in zip(addresses, each, strict=True):
            one = None
            with contextlib.suppress(AllocscopeError):
                one = memory.read(address, size)
            assert data == one
        for address in addresses:
            memory.runs(address, address + size)
            memory.residency(address, address + size)
