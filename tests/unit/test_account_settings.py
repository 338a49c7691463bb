"""Where a malloc setting comes from, from mp_'s value and the start environment."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from allocscope.account.settings import Surroundings, arena_limit, settings, version_number
from allocscope.glibc.abi import WIDE
from allocscope.glibc.layouts import PAR_3, PAR_4, Layout, narrow_layouts, par_layout, wide_layouts
from allocscope.glibc.par import ParValues
from allocscope.model.heap import Setting, Settings

DEFAULTS: dict[str, int] = {
    "trim_threshold": 131072,
    "top_pad": 131072,
    "mmap_threshold": 131072,
    "arena_test": 8,
    "arena_max": 0,
    "thp_pagesize": 0,
    "hp_pagesize": 0,
    "n_mmaps": 0,
    "n_mmaps_max": 65536,
    "max_n_mmaps": 0,
    "no_dyn_threshold": 0,
    "mmapped_mem": 0,
    "max_mmapped_mem": 0,
    "sbrk_base": 0x5555_5555_9000,
    "tcache_bins": 64,
    "tcache_max_bytes": 1032,
    "tcache_count": 7,
}


def par(**changes: int) -> ParValues:
    return ParValues(
        address=0x7F00_0000_0360, layout=par_layout(PAR_4, WIDE), **{**DEFAULTS, **changes}
    )


def surroundings(environ: dict[str, str] | None = None, **changes: Any) -> Surroundings:
    told = Surroundings(environ={}, cpus_online=4, cpus_cgroup=1.5, version="2.36")
    return dataclasses.replace(told, environ=environ, **changes)


def found(environ: dict[str, str] | None, **changes: int) -> Settings:
    return settings(par(**changes), row("2.36", wide_layouts()), 5, surroundings(environ))


def row(version: str, layouts: tuple[Layout, ...]) -> Layout:
    [layout] = [layout for layout in layouts if version in layout.versions]
    return layout


def huge(layout: Layout, environ: dict[str, str], **changes: int) -> Setting:
    return settings(par(**changes), layout, 5, surroundings(environ)).hugetlb


def tunable(name: str, value: str) -> dict[str, str]:
    return {"GLIBC_TUNABLES": f"glibc.cpu.x=1:glibc.malloc.{name}={value}:nonsense"}


def test_a_program_that_sets_nothing() -> None:
    answer = found({})
    origins = {
        name: getattr(answer, name).origin
        for name in Settings.__slots__
        if hasattr(getattr(answer, name), "origin")
    }
    assert set(origins.values()) == {"default"}
    assert len(origins) == 9
    assert answer.arena_max.value == 0
    assert answer.mmap_threshold_bytes.value == answer.top_pad_bytes.value == 131072
    assert (answer.arena_limit, answer.arena_count) == (32, 5)
    assert (answer.cpus_online, answer.cpus_cgroup) == (4, 1.5)
    assert answer.thresholds_dynamic


@pytest.mark.parametrize("text", ["2", "02", "0x2", " 2 ", "0X2"])
def test_tunables_are_numbers_as_glibc_reads_them(text: str) -> None:
    answer = found(tunable("arena_max", text), arena_max=2).arena_max
    assert (answer.value, answer.origin) == (2, "tunable")
    assert answer.evidence == "GLIBC_TUNABLES sets glibc.malloc.arena_max=2"


def test_environment_variables() -> None:
    answer = found({"MALLOC_ARENA_MAX": "3"}, arena_max=3).arena_max
    assert (answer.origin, answer.evidence) == ("environment", "MALLOC_ARENA_MAX=3")
    both = {"MALLOC_ARENA_MAX": "3", **tunable("arena_max", "3")}
    assert found(both, arena_max=3).arena_max.origin == "tunable"
    names = {
        "MALLOC_ARENA_TEST": ("arena_test", "arena_test"),
        "MALLOC_MMAP_THRESHOLD_": ("mmap_threshold", "mmap_threshold_bytes"),
        "MALLOC_TRIM_THRESHOLD_": ("trim_threshold", "trim_threshold_bytes"),
        "MALLOC_TOP_PAD_": ("top_pad", "top_pad_bytes"),
        "MALLOC_MMAP_MAX_": ("n_mmaps_max", "mmap_max"),
    }
    for variable, (field, shown) in names.items():
        answer = getattr(found({variable: "77777"}, **{field: 77777}), shown)
        assert (answer.value, answer.origin) == (77777, "environment")


def test_a_value_that_is_default_although_the_environment_asks_for_another() -> None:
    for environ in ({"MALLOC_ARENA_MAX": "2"}, tunable("arena_max", "2")):
        answer = found(environ).arena_max
        assert (answer.value, answer.origin, answer.without_effect) == (0, "default", True)
        assert answer.evidence == "the start environment asks for 2: without effect"
    assert not found({"MALLOC_ARENA_MAX": "many"}).arena_max.without_effect


def test_thresholds_that_glibc_raised_by_itself() -> None:
    answer = found({}, mmap_threshold=1 << 20, trim_threshold=2 << 20)
    assert answer.mmap_threshold_bytes.origin == answer.trim_threshold_bytes.origin == "dynamic"
    assert "no_dyn_threshold is 0" in answer.trim_threshold_bytes.evidence


def test_mallopt_is_what_is_left() -> None:
    answer = found({}, mmap_threshold=1 << 20, no_dyn_threshold=1, arena_max=1, tcache_count=100)
    for setting in (answer.mmap_threshold_bytes, answer.arena_max, answer.tcache_count):
        assert setting.origin == "mallopt"
    assert not answer.thresholds_dynamic
    other = found({"MALLOC_ARENA_MAX": "2"}, arena_max=1).arena_max
    assert other.origin == "mallopt"


def test_without_the_start_environment_it_is_unknown() -> None:
    answer = found(None, arena_max=1, top_pad=0)
    assert answer.arena_max.origin == answer.top_pad_bytes.origin == "unknown"
    assert answer.mmap_max.origin == "default"


def test_the_tcaches_of_newer_releases_have_other_defaults() -> None:
    answer = found({}, tcache_count=16, tcache_max_bytes=0x411)
    assert answer.tcache_count.origin == answer.tcache_max_bytes.origin == "default"
    answer = found(tunable("tcache_count", "0"), tcache_count=0)
    assert (answer.tcache_count.value, answer.tcache_count.origin) == (0, "tunable")


def test_huge_pages() -> None:
    assert found({}).hugetlb.value == 0
    thp = found(tunable("hugetlb", "1"), thp_pagesize=2 << 20).hugetlb
    assert (thp.value, thp.origin) == (2 << 20, "tunable")
    assert "transparent" in thp.evidence
    both = found({}, thp_pagesize=2 << 20, hp_pagesize=1 << 30).hugetlb
    assert (both.value, both.origin) == (1 << 30, "default")
    assert both.evidence.endswith(": heaps use hugetlb pages")


def test_huge_pages_that_are_larger_than_a_heap() -> None:
    wide, narrow = (row("2.43", layouts) for layouts in (wide_layouts(), narrow_layouts()))
    for layout, page in ((narrow, 2 << 20), (wide, 1 << 30)):
        answer = huge(layout, {}, hp_pagesize=page)
        assert answer.value == page
        assert "at most: only chunks" in answer.evidence
        assert answer.evidence.endswith("no heap does")
    assert huge(wide, {}, hp_pagesize=2 << 20).evidence.endswith(": heaps use hugetlb pages")
    older = row("2.41", narrow_layouts())  # whose heaps grow with the pages
    assert huge(older, {}, hp_pagesize=2 << 20).evidence.endswith(": heaps use hugetlb pages")
    assert "the main heap and chunks" in huge(narrow, {}, thp_pagesize=2 << 20).evidence


def test_huge_pages_that_were_asked_for_in_vain() -> None:
    unknown = settings(
        dataclasses.replace(par(), layout=par_layout(PAR_3, WIDE)),
        row("2.31", wide_layouts()),
        5,
        surroundings(tunable("hugetlb", "1")),
    ).hugetlb
    assert unknown.without_effect
    assert "came with glibc 2.35" in unknown.evidence
    refused = found(tunable("hugetlb", "2")).hugetlb
    assert (refused.value, refused.origin, refused.without_effect) == (0, "default", True)
    assert "found no such pages" in refused.evidence
    assert found(tunable("hugetlb", "0")).hugetlb.origin == "tunable"


@pytest.mark.parametrize(
    ("version", "cpus", "limit"),
    [("2.31", 4, 32), ("2.43", 1, 8), ("2.44", 2, 8), ("2.44", 64, 64), ("3.0", 64, 64)],
)
def test_how_many_arenas_there_may_be(version: str, cpus: int, limit: int) -> None:
    told = surroundings(version=version, cpus_online=cpus)
    assert arena_limit(par(), told) == limit
    assert arena_limit(par(arena_max=3), told) == 3


def test_versions() -> None:
    assert version_number("2.36") == (2, 36)
    for text in (None, "", "2", "2.x", "two.36"):
        assert version_number(text) is None
        assert arena_limit(par(), surroundings(version=text)) is None
