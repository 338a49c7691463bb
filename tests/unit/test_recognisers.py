"""Recognisers over made-up memory: what they find, and what they must leave alone."""

from __future__ import annotations

import struct

import pytest
from unit.heaps import Image

from allocscope.model.owners import Claim
from allocscope.model.process import AuxVector, Mapping
from allocscope.owners import cpython, dotnet, go, ruby, v8
from allocscope.owners.loader import link_maps, loader_claims
from allocscope.owners.recogniser import words_of
from allocscope.owners.stacks import ended_stacks, stack_claims, thread_stacks

PAGE = 4096
BASE = 0x7F12_0000_0000
ELSEWHERE = 0x5600_0000_0000
Span = tuple[int, int]


def spans_of(claims: list[Claim]) -> list[tuple[int, int]]:
    return [(claim.start - BASE, claim.end - BASE) for claim in claims]


# ---- stacks ----

STACK_BYTES, GUARD_BYTES = 1 << 20, PAGE


def stack_image(
    *, block: int = BASE, size: int = STACK_BYTES, itself: int = 0
) -> tuple[Image, int]:
    """A stack of 1 MiB with its control block where glibc puts it."""
    image = Image()
    tcb = BASE + STACK_BYTES - 0x940
    image.touch(tcb, BASE + STACK_BYTES)
    image.words(tcb, itself or tcb, 0, itself or tcb)
    image.words(tcb + 0x690, block, size, GUARD_BYTES, GUARD_BYTES)
    return image, tcb


def test_a_stack_is_what_its_control_block_says() -> None:
    image, tcb = stack_image()
    with image.memory() as memory:
        [stack] = thread_stacks(memory, {17: tcb})
    assert (stack.start, stack.end, stack.tid) == (BASE, BASE + STACK_BYTES, 17)
    [claim] = stack_claims([stack])
    assert (claim.key, claim.owner) == ("thread-stacks", "stack of thread 17")


@pytest.mark.parametrize(
    "wrong", [{"block": BASE + 1}, {"block": BASE + STACK_BYTES}, {"size": PAGE}, {"size": 4 << 30}]
)
def test_words_that_do_not_fit_are_no_stack(wrong: dict[str, int]) -> None:
    image, tcb = stack_image(**wrong)
    with image.memory() as memory:
        assert thread_stacks(memory, {17: tcb}) == []


def test_the_stack_of_a_thread_that_ended_is_found_behind_its_guard() -> None:
    span = (BASE + GUARD_BYTES, BASE + STACK_BYTES)
    image, tcb = stack_image()
    with image.memory() as memory:
        [stack] = ended_stacks(memory, [span], guards=[span[0]])
        assert (stack.start, stack.tcb, stack.tid) == (BASE, tcb, None)
        assert ended_stacks(memory, [span], guards=[]) == []
    image, _ = stack_image(itself=ELSEWHERE)
    with image.memory() as memory:
        assert ended_stacks(memory, [span], guards=[span[0]]) == []


# ---- the loader ----


def loader_image() -> tuple[Image, AuxVector]:
    """A program at ELSEWHERE whose DT_DEBUG leads to two link maps at BASE."""
    image = Image()
    phdr, dynamic, debug = ELSEWHERE + 0x40, ELSEWHERE + 0x2000, ELSEWHERE + 0x3000
    image.touch(ELSEWHERE, ELSEWHERE + 4 * PAGE)
    table = struct.pack("<IIQQQQQQ", 6, 4, 0x40, 0x40, 0x40, 112, 112, 8)
    table += struct.pack("<IIQQQQQQ", 2, 6, 0x2000, 0x2000, 0x2000, 64, 64, 8)
    image.write(phdr, table)
    image.words(dynamic, 5, 0, 21, debug, 0, 0, 0, 0)
    image.words(debug, 1, BASE + 0x200)
    image.words(BASE + 0x200, 0, 0, 0, BASE + 0x800, 0)
    image.words(BASE + 0x800, 0, 0, 0, 0, BASE + 0x200)
    return image, AuxVector(0, phdr, 2, 0, PAGE, False)


def test_the_loaders_list_is_followed_from_the_programs_dynamic_section() -> None:
    image, auxv = loader_image()
    with image.memory() as memory:
        assert link_maps(memory, auxv) == [BASE + 0x200, BASE + 0x800]
        small = [(BASE, BASE + 2 * PAGE)]
        assert spans_of(list(loader_claims(memory, small, None, auxv))) == [(0, 2 * PAGE)]
        large = [(BASE - PAGE, BASE + (1 << 20))]
        assert spans_of(list(loader_claims(memory, large, None, auxv))) == [(0, PAGE)]
        assert list(loader_claims(memory, [], None, auxv)) == []


def test_a_list_in_a_circle_ends() -> None:
    image, auxv = loader_image()
    image.words(BASE + 0x800 + 24, BASE + 0x200)
    with image.memory() as memory:
        assert len(link_maps(memory, auxv)) == 2


def test_the_main_threads_block_makes_its_mapping_the_loaders() -> None:
    with Image().memory() as memory:
        spans = [(BASE, BASE + 2 * PAGE), (BASE + 8 * PAGE, BASE + 9 * PAGE)]
        claims = list(loader_claims(memory, spans, BASE + 0x740, None))
    assert spans_of(claims) == [(0, 2 * PAGE)]


# ---- CPython ----

POOL = 1 << 14


def pool(image: Image, at: int, *, size_index: int = 3, last: int | None = None) -> None:
    size = (size_index + 1) * 16
    image.touch(at, at + POOL)
    header = cpython.HEADER.pack(
        5, at + 48 + 5 * size, at + POOL, at, 2, size_index, 48 + 6 * size,
        POOL - size if last is None else last,
    )  # fmt: skip
    image.write(at, header)


def claims_of_cpython(image: Image, span: Span) -> list[Claim]:
    with image.memory() as memory:
        return list(cpython.claims(memory, [span]))


def test_pools_whose_fields_fit_are_cpythons() -> None:
    image = Image()
    for number in range(8):
        pool(image, BASE + number * POOL, size_index=number)
    claims = claims_of_cpython(image, (BASE, BASE + (1 << 20)))
    assert spans_of(claims) == [(0, 8 * POOL)]
    assert "8 pool headers" in claims[0].evidence


def test_what_follows_the_pools_is_not_cpythons() -> None:
    image = Image()
    for number in range(4):
        pool(image, BASE + number * POOL)
    image.touch(BASE + 4 * POOL, BASE + 8 * POOL)
    assert spans_of(claims_of_cpython(image, (BASE, BASE + 8 * POOL))) == [(0, 4 * POOL)]


def test_one_pool_or_a_wrong_offset_is_none() -> None:
    image = Image()
    pool(image, BASE)
    assert claims_of_cpython(image, (BASE, BASE + (1 << 20))) == []
    pool(image, BASE + POOL, last=POOL - 8)
    assert claims_of_cpython(image, (BASE, BASE + (1 << 20))) == []


def test_a_chunk_of_the_interpreters_stack_says_how_long_it_is() -> None:
    image = Image()
    image.words(BASE, 0, POOL, 100)
    assert spans_of(claims_of_cpython(image, (BASE, BASE + POOL))) == [(0, POOL)]
    image.words(BASE + 16, POOL)  # more words in use than there are
    assert claims_of_cpython(image, (BASE, BASE + POOL)) == []


def test_a_chunk_of_the_interpreters_stack_beside_pools_is_found() -> None:
    image = Image()
    for number in range(4):
        pool(image, BASE + number * POOL)
    image.words(BASE + 4 * POOL + 0x3000, 0, POOL, 100)
    claims = claims_of_cpython(image, (BASE, BASE + 4 * POOL + 0x3000 + POOL))
    assert spans_of(claims) == [(0, 4 * POOL), (4 * POOL + 0x3000, 5 * POOL + 0x3000)]


# ---- V8 ----

CHUNK = 1 << 18


def v8_chunk(image: Image, at: int, *, size: int = CHUNK, heap: int = ELSEWHERE) -> None:
    image.words(at, size, 4, heap, at + 0x1148, at + size)


def test_chunks_that_name_one_heap_are_v8s() -> None:
    image = Image()
    v8_chunk(image, BASE)
    v8_chunk(image, BASE + 4 * CHUNK, size=CHUNK + 0x2000)
    spans = [(BASE, BASE + CHUNK), (BASE + 4 * CHUNK, BASE + 5 * CHUNK + 0x2000)]
    with image.memory() as memory:
        claims = list(v8.claims(memory, spans))
    assert spans_of(claims) == [(0, CHUNK), (4 * CHUNK, 5 * CHUNK + 0x2000)]


def v8_chunk_of_12(image: Image, at: int) -> None:
    """Of Node 22: flags, the chunk itself, then what was there before."""
    image.words(at, 0x12, at, CHUNK, ELSEWHERE, at + 0x1140, at + CHUNK)


def v8_chunk_of_13(image: Image, at: int, about: int, *, itself: int = 0) -> None:
    """Of Node 24: flags and a pointer; the words there as in a process of it."""
    image.words(at, 0x12, about)
    counters = (0x3FFF0, 0, 0x10, CHUNK)
    area = (at + CHUNK, ELSEWHERE + 0x8000, at + 0x10)
    image.words(about, 0x6B20AB0, itself or at, CHUNK, *counters, *area, ELSEWHERE)


def test_chunks_of_later_v8s() -> None:
    image = Image()
    v8_chunk_of_12(image, BASE)
    v8_chunk_of_12(image, BASE + CHUNK)
    v8_chunk_of_13(image, BASE + 4 * CHUNK, ELSEWHERE + 0x1000)
    v8_chunk_of_13(image, BASE + 5 * CHUNK, ELSEWHERE + 0x2000)
    v8_chunk_of_13(image, BASE + 6 * CHUNK, ELSEWHERE + 0x3000, itself=BASE)
    with image.memory() as memory:
        claims = list(v8.claims(memory, [(BASE, BASE + 7 * CHUNK)]))
    expected = [(number * CHUNK, (number + 1) * CHUNK) for number in (0, 1, 4, 5)]
    assert spans_of(claims) == expected


def test_a_chunk_alone_or_of_another_heap_is_none() -> None:
    image = Image()
    v8_chunk(image, BASE)
    v8_chunk(image, BASE + CHUNK, heap=ELSEWHERE + 64)
    image.words(BASE + 2 * CHUNK, CHUNK, 4, ELSEWHERE, BASE, BASE + CHUNK)  # an area elsewhere
    with image.memory() as memory:
        assert list(v8.claims(memory, [(BASE, BASE + 3 * CHUNK)])) == []


# ---- Go ----

ARENA = 64 << 20
GO_HEAP = 0xC0_0000_0000
VARIABLE, TABLE, DESCRIPTION, SPAN = BASE + 64, ELSEWHERE, BASE + (48 << 20), BASE + (44 << 20)


def go_heap(
    image: Image, heap: int, *, page_words_at: int, start: int = 0, page_count: int = 4
) -> None:
    """The table's entries of two arenas; a span that begins ``start`` bytes behind the first page
    that is there, the fourth of the first arena."""
    image.words(VARIABLE - 64, TABLE + 8, 0, 0, 0, 0, 0, 0, 0, TABLE)
    image.words(TABLE + (heap + (1 << 47)) // ARENA * 8, DESCRIPTION, DESCRIPTION + (4 << 20))
    image.words(DESCRIPTION + page_words_at + 3 * 8, SPAN)
    image.words(SPAN, 0, 0, 0, heap + 3 * 8192 + start, page_count)
    image.words(heap + 3 * 8192, 1)


def claims_of_go(image: Image, heap: int) -> list[Claim]:
    spans = [(BASE + ARENA, BASE + ARENA + PAGE), (heap, heap + ARENA + (8 << 20))]
    with image.memory() as memory:
        variables = dict(words_of(memory, [Mapping(BASE, BASE + PAGE, "rw-p", 0, "00:00", 0, "")]))
        return list(go.claims(memory, variables, spans))


@pytest.mark.parametrize("heap", [GO_HEAP, 0x2A_4C00_0000])
@pytest.mark.parametrize("page_words_at", [0, 0x104000, 0x200000])
def test_arenas_that_the_runtimes_table_leads_to_are_gos(page_words_at: int, heap: int) -> None:
    """Wherever the heap lies: from Go 1.26 on that is anywhere."""
    image = Image()
    go_heap(image, heap, page_words_at=page_words_at)
    own = [claim for claim in claims_of_go(image, heap) if claim.owner == "Go heap"]
    assert [(claim.start - heap, claim.end - heap) for claim in own] == [
        (0, ARENA),
        (ARENA, ARENA + (8 << 20)),
    ]
    assert f"arenas at {VARIABLE:#x}" in own[0].evidence
    [one, other] = [claim for claim in claims_of_go(image, heap) if claim not in own]
    assert (one.start, one.end) == (DESCRIPTION, DESCRIPTION + page_words_at + (64 << 10))
    assert other.start == one.start + (4 << 20)


@pytest.mark.parametrize(
    ("start", "page_count", "known"),
    [(0, 1, True), (-8192, 2, True), (8192, 1, False), (0, 0, False), (-4096, 2, False)],
)
def test_the_way_must_lead_back_to_the_page(start: int, page_count: int, known: bool) -> None:
    image = Image()
    go_heap(image, GO_HEAP, page_words_at=0, start=start, page_count=page_count)
    assert bool(claims_of_go(image, GO_HEAP)) == known


def test_words_for_pages_at_another_place_are_none_of_gos() -> None:
    image = Image()
    go_heap(image, GO_HEAP, page_words_at=0x100)
    assert claims_of_go(image, GO_HEAP) == []


# ---- .NET ----


def segment(image: Image, start: int, there_to: int, to: int, **wrong: int) -> None:
    """As .NET Core 3.1 has it; offsets from BASE."""
    fields = {
        "allocated": BASE + start + 0x5000, "committed": BASE + there_to,
        "reserved": BASE + to, "used": BASE + start + 0x4FF8, "objects": BASE + start + PAGE,
        "flags": 8, "next": 0,
    } | wrong  # fmt: skip
    image.words(BASE + start, *fields.values())


def claims_of_dotnet(image: Image, end: int) -> list[Claim]:
    with image.memory() as memory:
        return list(dotnet.claims(memory, [(BASE, BASE + end)]))


def test_a_segment_that_ends_where_its_mapping_does_is_dotnets() -> None:
    image = Image()
    segment(image, 0, 0x10000, 0x80000)
    [claim] = claims_of_dotnet(image, 0x10000)
    assert (claim.key, claim.owner, spans_of([claim])) == (
        "runtime-heap", ".NET heap", [(0, 0x10000)]
    )  # fmt: skip


def test_segments_that_lie_behind_each_other_are_both_found() -> None:
    image = Image()
    segment(image, 0, 0x10000, 0x10000)
    segment(image, 0x10000, 0x18000, 0x80000)
    assert spans_of(claims_of_dotnet(image, 0x18000)) == [(0, 0x10000), (0x10000, 0x18000)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"committed": BASE + 0x11000},
        {"committed": BASE + 0xF000},
        {"reserved": BASE + 0x8000},
        {"allocated": BASE + 0x10008},
        {"used": BASE},
        {"objects": BASE},
        {"flags": 1 << 16},
        {"next": 8},
    ],
)
def test_words_that_do_not_fit_are_no_segment(wrong: dict[str, int]) -> None:
    image = Image()
    segment(image, 0, 0x10000, 0x80000, **wrong)
    assert claims_of_dotnet(image, 0x10000) == []


# ---- Ruby ----


def ruby_pages(image: Image, count: int, size: int = 1 << 14) -> None:
    for number in range(count):
        at, about = BASE + number * size, ELSEWHERE + number * 256
        image.touch(at, at + size)
        image.words(at, about)
        image.write(about, struct.pack("<HH4xQQQQ", 40, size // 40 - 1, 0, 0, 0, at + 16))


def claims_of_ruby(image: Image, span: Span) -> list[Claim]:
    with image.memory() as memory:
        return list(ruby.claims(memory, [span]))


@pytest.mark.parametrize("size", [1 << 14, 1 << 16])
def test_pages_and_their_structs_that_point_to_each_other_are_rubys(size: int) -> None:
    image = Image()
    ruby_pages(image, 4, size)
    [claim] = claims_of_ruby(image, (BASE, BASE + 4 * size))
    assert spans_of([claim]) == [(0, 4 * size)]
    assert f"4 pages of {size} bytes" in claim.evidence


def test_a_page_whose_struct_does_not_point_back_is_none() -> None:
    image = Image()
    ruby_pages(image, 4)
    for number in range(4):
        image.words(ELSEWHERE + number * 256 + 32, ELSEWHERE)
    assert claims_of_ruby(image, (BASE, BASE + 4 * (1 << 14))) == []


def test_blocks_that_lead_to_each_other_are_the_transient_heap() -> None:
    image = Image()
    blocks = 10
    for number in range(blocks):
        image.words(BASE + number * (1 << 15), 0xFFFF0000, BASE + (number - 1) * (1 << 15))
    [claim] = claims_of_ruby(image, (BASE, BASE + (1 << 25)))
    assert spans_of([claim]) == [(0, blocks << 15)]
    assert claim.owner == "Ruby transient heap"


def test_a_few_words_in_a_large_heap_that_look_like_blocks_are_none() -> None:
    """A heap of .NET had them."""
    image = Image()
    image.touch(BASE, BASE + (80 << 15))
    for number in range(1, 20):
        image.words(BASE + number * (1 << 15), 0xFFFF0000, BASE + (number - 1) * (1 << 15))
    assert claims_of_ruby(image, (BASE, BASE + (1 << 25))) == []


def test_a_fibers_unused_stack_says_where_it_begins() -> None:
    image = Image()
    end = BASE + 0xA1000
    image.words(end - PAGE, BASE, end - PAGE, 0xA1000, 0xA0000)
    [claim] = claims_of_ruby(image, (BASE, end))
    assert (claim.key, spans_of([claim])) == ("thread-stacks", [(0, 0xA1000)])
    assert claims_of_ruby(image, (BASE, end - PAGE)) == []
