"""The comparison of glibc's figures with ours, on figures made up here and printed as glibc would
print them.
"""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocscope.account.crosscheck import compare, wrapped
from allocscope.errors import BadInput
from allocscope.model.glibc_says import (
    ArenaLists,
    InfoHeap,
    MallocInfo,
    MallocStats,
    ProcessLists,
    SizeRow,
    StatsArena,
)

GIB = 1 << 30


def an_arena(index: int, **changes: int) -> ArenaLists:
    figures = {
        "bin_count": 4,
        "bin_bytes": 4096,
        "fast_count": 3,
        "fast_bytes": 96,
        "top_bytes": 20000,
        "system_bytes": 135168,
        "max_system_bytes": 139264,
        "aspace_bytes": 135168,
        "aspace_mprotect_bytes": 135168 if index == 0 else 139264,
        "subheap_count": 0 if index == 0 else 2,
    }
    figures |= changes
    figures.setdefault("bin_word_bytes", figures["bin_bytes"] + figures["bin_count"])
    figures.setdefault("bin_back_bytes", figures["bin_bytes"])
    return ArenaLists(index=index, **figures)


def a_process(*arenas: ArenaLists, has_fastbins: bool = True) -> ProcessLists:
    return ProcessLists(
        arenas=arenas,
        has_fastbins=has_fastbins,
        mmap_count=2,
        mmap_bytes=3 * GIB,
        max_mmap_count=5,
        max_mmap_bytes=9 * GIB,
    )


def as_info(lists: ProcessLists, top_in_rest: bool = True) -> MallocInfo:
    """What malloc_info prints of these lists: raw size words (+1 per binned chunk), top at its true
    size.
    """
    heaps = tuple(as_heap(arena, lists.has_fastbins, top_in_rest) for arena in lists.arenas)
    fast = lists.has_fastbins
    return MallocInfo(
        heaps=heaps,
        fast_count=sum(a.fast_count for a in lists.arenas) if fast else None,
        fast_bytes=sum(a.fast_bytes for a in lists.arenas) if fast else None,
        rest_count=sum(heap.rest_count for heap in heaps),
        rest_bytes=sum(heap.rest_bytes for heap in heaps),
        mmap_count=lists.mmap_count,
        mmap_bytes=lists.mmap_bytes,
        system_bytes=sum(heap.system_bytes for heap in heaps),
        max_system_bytes=sum(heap.max_system_bytes for heap in heaps),
        aspace_bytes=sum(heap.aspace_bytes for heap in heaps),
        aspace_mprotect_bytes=sum(heap.aspace_mprotect_bytes for heap in heaps),
    )


def as_heap(arena: ArenaLists, fast: bool, top: bool) -> InfoHeap:
    sizes, unsorted = [], None
    if arena.fast_count:
        size = arena.fast_bytes // arena.fast_count
        sizes.append(SizeRow(size - 15, size, arena.fast_bytes, arena.fast_count))
    if arena.bin_count:
        first = arena.bin_bytes - 32 * (arena.bin_count - 1)
        unsorted = SizeRow(first + 1, first + 1, first + 1, 1)
        rest = arena.bin_count - 1
        if rest:
            sizes.append(SizeRow(33, 33, 33 * rest, rest))
    return InfoHeap(
        index=arena.index,
        sizes=tuple(sizes),
        unsorted=unsorted,
        fast_count=arena.fast_count if fast else None,
        fast_bytes=arena.fast_bytes if fast else None,
        rest_count=arena.bin_count + top,
        rest_bytes=arena.bin_bytes + arena.bin_count + (arena.top_bytes if top else 0),
        system_bytes=arena.system_bytes,
        max_system_bytes=arena.max_system_bytes,
        aspace_bytes=arena.aspace_bytes,
        aspace_mprotect_bytes=arena.aspace_mprotect_bytes,
        subheap_count=arena.subheap_count if arena.index else None,
    )


def as_stats(lists: ProcessLists) -> MallocStats:
    """What malloc_stats prints: everything but the last figure in unsigned 32 bits."""
    used = [a.system_bytes - a.fast_bytes - a.bin_back_bytes - a.top_bytes for a in lists.arenas]
    system = [a.system_bytes for a in lists.arenas]
    return MallocStats(
        arenas=tuple(
            StatsArena(i, size & 0xFFFFFFFF, use & 0xFFFFFFFF)
            for i, (size, use) in enumerate(zip(system, used, strict=True))
        ),
        total_system_bytes=(sum(system) + lists.mmap_bytes) & 0xFFFFFFFF,
        total_in_use_bytes=(sum(used) + lists.mmap_bytes) & 0xFFFFFFFF,
        max_mmap_regions=lists.max_mmap_count,
        max_mmap_bytes=lists.max_mmap_bytes,
    )


@pytest.mark.parametrize("top_in_rest", [True, False])
def test_equal_figures_agree(top_in_rest: bool) -> None:
    lists = a_process(an_arena(0), an_arena(1), an_arena(2, bin_count=0, bin_bytes=0))
    assert compare(as_info(lists, top_in_rest), as_stats(lists), lists) == ()


def test_a_glibc_without_fastbins_agrees() -> None:
    bare = {"fast_count": 0, "fast_bytes": 0}
    lists = a_process(an_arena(0, **bare), an_arena(1, **bare), has_fastbins=False)
    assert compare(as_info(lists), as_stats(lists), lists) == ()
    wrong = dataclasses.replace(lists, has_fastbins=True)
    assert [d.figure for d in compare(as_info(lists), None, wrong)] == ["has_fastbins"]


@pytest.mark.parametrize(
    ("figure", "in_info", "in_stats"),
    [
        ("bin_count", ["bin_count", "bin_count"], []),
        ("bin_bytes", ["bin_bytes", "rest_bytes"], ["in_use_bytes", "in_use_bytes"]),
        ("bin_back_bytes", [], ["in_use_bytes", "in_use_bytes"]),
        ("fast_count", ["fast_count", "fast_count"], []),
        ("fast_bytes", ["fast_bytes", "fast_bytes"], ["in_use_bytes", "in_use_bytes"]),
        ("top_bytes", ["top_bytes", "rest_bytes"], ["in_use_bytes", "in_use_bytes"]),
        (
            "system_bytes",
            ["system_bytes", "system_bytes"],
            ["system_bytes", "in_use_bytes", "system_bytes", "in_use_bytes"],
        ),
        ("max_system_bytes", ["max_system_bytes", "max_system_bytes"], []),
        ("aspace_bytes", ["aspace_bytes", "aspace_bytes"], []),
        ("aspace_mprotect_bytes", ["aspace_mprotect_bytes", "aspace_mprotect_bytes"], []),
        ("subheap_count", ["subheap_count"], []),
    ],
)
def test_one_unit_too_much_is_found(figure: str, in_info: list[str], in_stats: list[str]) -> None:
    said = a_process(an_arena(0), an_arena(1))
    off = an_arena(1, **{figure: getattr(an_arena(1), figure) + 1})
    ours = a_process(an_arena(0), off)
    differences = compare(as_info(said), None, ours)
    assert [d.figure for d in differences] == in_info
    assert [d.arena_index for d in differences] == [1, None][: len(in_info)]
    assert all(d.ours - d.glibc == 1 and d.explanation for d in differences)
    assert [d.figure for d in compare(None, as_stats(said), ours)] == in_stats


@pytest.mark.parametrize(
    ("figure", "in_info", "in_stats"),
    [
        ("mmap_count", ["mmap_count"], []),
        ("mmap_bytes", ["mmap_bytes"], ["system_bytes", "in_use_bytes"]),
        ("max_mmap_count", [], ["max_mmap_count"]),
        ("max_mmap_bytes", [], ["max_mmap_bytes"]),
    ],
)
def test_process_counters(figure: str, in_info: list[str], in_stats: list[str]) -> None:
    said = a_process(an_arena(0))
    ours = dataclasses.replace(said, **{figure: getattr(said, figure) + 1})
    assert [d.figure for d in compare(as_info(said), None, ours)] == in_info
    differences = compare(None, as_stats(said), ours)
    assert [d.figure for d in differences] == in_stats
    assert all(d.arena_index is None for d in differences)


def test_another_number_of_arenas() -> None:
    said, ours = a_process(an_arena(0), an_arena(1)), a_process(an_arena(0))
    differences = compare(as_info(said), as_stats(said), ours)
    assert [(d.figure, d.glibc, d.ours) for d in differences] == [("arena_count", 2, 1)] * 2


def test_address_space_of_the_newest_heap_only_is_not_compared() -> None:
    lists = a_process(an_arena(0), an_arena(1))
    info = as_info(lists)
    newest_only = dataclasses.replace(
        info,
        heaps=(
            info.heaps[0],
            dataclasses.replace(info.heaps[1], aspace_bytes=4096, subheap_count=None),
        ),
        aspace_bytes=4096 + lists.arenas[0].aspace_bytes,
    )
    assert compare(newest_only, None, lists) == ()
    one_heap = a_process(an_arena(0), an_arena(1, subheap_count=1))
    assert [d.figure for d in compare(newest_only, None, one_heap)] == ["aspace_bytes"] * 2


def test_garbage_of_old_versions_is_named() -> None:
    lists = a_process(an_arena(0))
    info = as_info(lists)
    heap = info.heaps[0]
    assert heap.unsorted is not None
    garbage = dataclasses.replace(
        heap,
        unsorted=dataclasses.replace(heap.unsorted, total_bytes=1 << 47),
        rest_bytes=heap.rest_bytes - heap.unsorted.total_bytes + (1 << 47),
    )
    said = dataclasses.replace(info, heaps=(garbage,), rest_bytes=garbage.rest_bytes)
    differences = compare(said, None, lists)
    assert {d.figure for d in differences} == {"bin_bytes", "rest_bytes"}
    assert all("BZ 16112" in d.explanation for d in differences)


def test_wrap_around_is_equal_and_named() -> None:
    lists = a_process(an_arena(0, system_bytes=5 * GIB, max_system_bytes=5 * GIB), an_arena(1))
    stats = as_stats(lists)
    assert compare(None, stats, lists) == ()
    notes = wrapped(stats, lists)
    assert [note.split(" is ")[0] for note in notes] == [
        "system_bytes in arena 0",
        "in_use_bytes in arena 0",
        "system_bytes in all",
        "in_use_bytes in all",
    ]
    assert f"is {5 * GIB};" in notes[0] and f"prints {GIB}" in notes[0]
    assert wrapped(as_stats(a_process(an_arena(1))), a_process(an_arena(1))) == ()


def test_a_difference_of_exactly_4_gib_is_only_seen_by_malloc_info() -> None:
    said = a_process(an_arena(0))
    ours = a_process(an_arena(0, system_bytes=135168 + 4 * GIB))
    assert compare(None, as_stats(said), ours) == ()
    assert [d.figure for d in compare(as_info(said), None, ours)] == ["system_bytes"] * 2


def test_a_document_that_contradicts_itself() -> None:
    lists = a_process(an_arena(0))
    info = as_info(lists)
    broken = dataclasses.replace(info.heaps[0], rest_count=99)
    with pytest.raises(BadInput):
        compare(dataclasses.replace(info, heaps=(broken,)), None, lists)


@given(st.data())
def test_whatever_the_figures_printing_them_agrees(data: st.DataObject) -> None:
    arenas = []
    for index in range(data.draw(st.integers(1, 5))):
        count, fast = data.draw(st.integers(0, 50)), data.draw(st.integers(0, 50))
        large = 16 * data.draw(st.integers(2, 1 << 30)) if count else 0
        top = 16 * data.draw(st.integers(0, 1 << 32))
        binned = large + 32 * max(count - 1, 0)
        system = binned + 64 * fast + top + data.draw(st.integers(0, 1 << 34))
        arenas.append(
            an_arena(
                index,
                bin_count=count,
                bin_bytes=binned,
                fast_count=fast,
                fast_bytes=64 * fast,
                top_bytes=top,
                system_bytes=system,
            )
        )
    lists = a_process(*arenas)
    top_in_rest = data.draw(st.booleans())
    assert compare(as_info(lists, top_in_rest), as_stats(lists), lists) == ()
