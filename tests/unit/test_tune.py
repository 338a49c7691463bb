"""tune: what is suggested, what is left alone and why, and the command that tries it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from rich.cells import cell_len
from unit import reports
from unit.situations import MIB, SETTINGS, arena, parked_end, setting, situation
from unit.test_render_json import validate

from allocscope.app import tune as app
from allocscope.causes.start import limit_rule, start_with
from allocscope.causes.tune import tune
from allocscope.cli.group import run
from allocscope.model.heap import SizeClass
from allocscope.model.libc import Allocator
from allocscope.model.report import Report
from allocscope.model.situation import Contention, Situation
from allocscope.model.tune import LeftAlone, SettingKey, Suggestion, TuneData
from allocscope.render.page import Look
from allocscope.render.tune import tune as page

SPREAD = tuple(arena(i, live=1, whole_pages=9) for i in range(1, 9))
FOUR_CPUS = dataclasses.replace(SETTINGS, cpus_online=4, cpus_cgroup=None)
QUIET = Contention(1000, 20, 5)
CROWDED = Contention(1000, 300, 11)
RAISED = dataclasses.replace(
    SETTINGS,
    trim_threshold_bytes=setting(48 * MIB, "dynamic"),
    mmap_threshold_bytes=setting(24 * MIB, "dynamic"),
)
SIXTEEN = dataclasses.replace(SETTINGS, tcache_count=setting(16))


def spread(**changes: Any) -> Situation:
    wanted = {"settings": FOUR_CPUS, "contention": QUIET, **changes}
    return situation(arena(0, live=20), *SPREAD, **wanted)


def with_large_chunks(made: Situation, free_mib: int, live: int = 3) -> Situation:
    row = SizeClass(1 << 20, 1 << 21, live, live * MIB, 0, 0, 0, 0, free_mib, free_mib * MIB, 0)
    return dataclasses.replace(made, heap=dataclasses.replace(made.heap, size_classes=(row,)))


def answer(key: SettingKey, made: Situation) -> Suggestion | LeftAlone:
    data = tune(made, "2.36")
    assert len(data.suggestions) + len(data.left_alone) == 4
    [found] = [one for one in (*data.suggestions, *data.left_alone) if one.key == key]
    return found


def suggested(key: SettingKey, made: Situation) -> Suggestion:
    found = answer(key, made)
    assert isinstance(found, Suggestion), found
    assert found.rests_on
    assert found.cost
    return found


def left(key: SettingKey, made: Situation) -> str:
    found = answer(key, made)
    assert isinstance(found, LeftAlone), found
    return found.reason


# ---- arena_max ----


def test_arenas_for_as_many_threads_as_can_run() -> None:
    found = suggested("arena_max", spread())
    assert (found.value, found.concerned_bytes) == (4, 72 * MIB)
    assert found.command == "GLIBC_TUNABLES=glibc.malloc.arena_max=4 CMD"
    assert "nothing if all are busy at once" in found.estimate
    assert found.only_at_start


@pytest.mark.parametrize(("cpus", "quota", "value"), [(64, 2.5, 3), (64, 0.5, 2), (6, 8.0, 6)])
def test_the_quota_of_a_container_counts(cpus: int, quota: float, value: int) -> None:
    settings = dataclasses.replace(SETTINGS, cpus_online=cpus, cpus_cgroup=quota)
    assert suggested("arena_max", spread(settings=settings)).value == value


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (situation(arena(0, live=20)), "only the main arena"),
        (situation(arena(0, live=9), arena(1, live=1, whole_pages=9)), "no more than can be of"),
        (spread(contention=CROWDED), "1 % of the looks"),
        (spread(settings=dataclasses.replace(SETTINGS, cpus_online=None, cpus_cgroup=None)), "CPU"),
        (
            situation(*(arena(i, live=9) for i in range(9)), settings=FOUR_CPUS),
            "hold no more than 0 bytes",
        ),
    ],
)
def test_arenas_are_left_alone_with_a_reason(made: Situation, why: str) -> None:
    assert why in left("arena_max", made)


def test_idle_arenas_are_counted_with_what_they_hold() -> None:
    made = spread()
    arenas = tuple(
        dataclasses.replace(one, attached_threads=(one.index + 1) % 2) for one in made.heap.arenas
    )
    heap = dataclasses.replace(made.heap, arenas=arenas)
    data = tune(dataclasses.replace(made, heap=heap), "2.36")
    assert (data.idle_arena_count, data.idle_reusable_bytes) == (4, 36 * MIB)
    unknown = tuple(dataclasses.replace(one, attached_threads=None) for one in arenas)
    heap = dataclasses.replace(heap, arenas=unknown)
    data = tune(dataclasses.replace(made, heap=heap), "2.19")
    assert [use.idle for use in data.arenas] == [None] * 9
    assert data.idle_arena_count == 0


# ---- thresholds and caches ----


def test_ends_of_heaps_beyond_the_first_threshold() -> None:
    made = situation(arena(0, top=10, live=9), arena(1, top=2), settings=RAISED)
    found = suggested("trim_threshold", made)
    assert (found.value, found.concerned_bytes) == (131072, 12 * MIB - 2 * 131072)
    assert not found.only_at_start
    assert "mmap_threshold stays fixed" in found.cost


def test_a_threshold_that_keeps_nothing_is_left_alone() -> None:
    assert "keeps little" in left("trim_threshold", situation(arena(0, top=9)))
    assert "keeps little" in left("mmap_threshold", situation(arena(0, whole_pages=9)))
    assert "48.0 MiB (dynamic), but" in left("trim_threshold", spread(settings=RAISED))
    assert "24.0 MiB (dynamic), but" in left("mmap_threshold", spread(settings=RAISED))


def test_large_free_chunks_count_as_far_as_their_pages_are_there() -> None:
    made = situation(arena(0, live=9, whole_pages=30), settings=RAISED)
    assert suggested("mmap_threshold", with_large_chunks(made, 20)).concerned_bytes == 20 * MIB
    assert suggested("mmap_threshold", with_large_chunks(made, 90)).concerned_bytes == 30 * MIB
    assert "merged of smaller ones" in left("mmap_threshold", with_large_chunks(made, 90, live=0))


@pytest.mark.parametrize(("settings", "value"), [(SETTINGS, 7), (SIXTEEN, 7)])
def test_caches_go_back_to_the_older_size_first(settings: Any, value: int) -> None:
    found = suggested("tcache_count", situation(arena(0, live=9, tcache=9), settings=settings))
    assert (found.value, found.concerned_bytes) == (value, 9 * MIB)
    assert found.in_program is None


def test_caches_of_the_older_size_can_only_go() -> None:
    seven = dataclasses.replace(SETTINGS, tcache_count=setting(7))
    made = situation(arena(0, live=9, tcache=9), settings=seven)
    assert suggested("tcache_count", made).value == 0
    none = dataclasses.replace(SETTINGS, tcache_count=setting(0))
    assert left("tcache_count", situation(arena(0, live=9), settings=none)) == (
        "there are no thread caches"
    )
    assert "hold no more than" in left("tcache_count", situation(arena(0, live=9)))


def test_what_parked_chunks_keep_at_the_ends_of_heaps_counts_too() -> None:
    made = situation(arena(0, live=9, tcache=1), settings=SIXTEEN, parked_ends=(parked_end(0, 30),))
    found = suggested("tcache_count", made)
    assert (found.value, found.concerned_bytes) == (0, 31 * MIB)
    assert "are all that keeps 30.0 MiB at the ends" in found.rests_on[-1]


# ---- what has no effect ----


def test_a_limit_below_the_arenas_there_are_came_too_late() -> None:
    late = dataclasses.replace(FOUR_CPUS, arena_max=setting(2, "mallopt"), arena_count=9)
    [text] = tune(spread(settings=late), "2.36").without_effect
    assert "arena_max is 2, but there are 9 arenas" in text
    kept = dataclasses.replace(late, arena_count=2)
    assert tune(spread(settings=kept), "2.36").without_effect == ()


def test_names_that_no_glibc_reads_are_told() -> None:
    [text] = tune(spread(environ={"MALLOC_ARENA_MAX_": "2"}), "2.36").without_effect
    assert text == "no glibc reads MALLOC_ARENA_MAX_; the name is MALLOC_ARENA_MAX"


# ---- commands ----


@pytest.mark.parametrize(
    ("key", "version", "command"),
    [
        ("arena_max", "2.36", "GLIBC_TUNABLES=glibc.malloc.arena_max=5 CMD"),
        ("arena_max", "2.26", "GLIBC_TUNABLES=glibc.malloc.arena_max=5 CMD"),
        ("arena_max", "2.25", "MALLOC_ARENA_MAX=5 CMD"),
        ("arena_max", None, "MALLOC_ARENA_MAX=5 CMD"),
        ("trim_threshold", "2.17", "MALLOC_TRIM_THRESHOLD_=5 CMD"),
        ("mmap_threshold", "2.17", "MALLOC_MMAP_THRESHOLD_=5 CMD"),
        ("tcache_count", None, "GLIBC_TUNABLES=glibc.malloc.tcache_count=5 CMD"),
    ],
)
def test_the_command_is_that_of_the_version(
    key: SettingKey, version: str | None, command: str
) -> None:
    assert start_with(key, 5, version, {}) == command


def test_tunables_that_are_there_stay_and_nothing_else_gets_into_a_shell() -> None:
    environ = {
        "GLIBC_TUNABLES": "glibc.malloc.arena_max=9:glibc.malloc.tcache_count=32:"
        "glibc.malloc.check=$(reboot):a b=1:;rm=2"
    }
    assert start_with("arena_max", 2, "2.36", environ) == (
        "GLIBC_TUNABLES=glibc.malloc.arena_max=2:glibc.malloc.tcache_count=32 CMD"
    )


def test_the_limit_of_arenas_is_explained() -> None:
    settings = dataclasses.replace(SETTINGS, arena_limit=16, cpus_online=2, cpus_cgroup=1.5)
    assert limit_rule(settings, "2.43") == (
        "at most 16: 8 for each of 2 CPUs online; the cgroup's quota of 1.5 CPUs plays no part in "
        "it"
    )
    newer = dataclasses.replace(settings, arena_limit=8, cpus_cgroup=None)
    assert limit_rule(newer, "2.44") == (
        "at most 8: the larger of 2 CPUs online and arena_test 8, from glibc 2.44 on"
    )
    fixed = dataclasses.replace(newer, arena_limit=3, arena_max=setting(3, "tunable"))
    assert limit_rule(fixed, None) == "at most 3, by arena_max (tunable)"
    assert limit_rule(dataclasses.replace(newer, arena_limit=None), "2.44") is None


# ---- the page, the schema, the command ----


def report(made: Situation, name: str = "glibc") -> Report[TuneData]:
    base = reports.report()
    process = reports.process(comm="server")
    data = tune(made, "2.36")
    return Report(process, base.libc, Allocator(name, ()), base.method, data, ())


@pytest.mark.parametrize("width", [80, 100])
def test_the_page_fits_and_says_that_it_estimates(width: int) -> None:
    text = page(report(spread()), Look(width, rows=3))
    assert max(map(cell_len, text.splitlines())) <= width
    assert text.startswith("server (pid 4711): worth a try: arena_max=4.\n")
    assert "Worth a try (estimates from one look, no promises)" in text
    assert "   > GLIBC_TUNABLES=glibc.malloc.arena_max=4 CMD\n" in text
    assert "… 6 more" in text


def test_nothing_to_try_is_said_first() -> None:
    text = page(report(situation(arena(0, live=50))), Look())
    assert text.startswith("server (pid 4711): no setting is worth a try.\n")
    assert "Worth a try" not in text


def test_with_another_allocator_these_settings_mean_nothing() -> None:
    text = page(report(spread(), "jemalloc"), Look())
    assert text.startswith("server (pid 4711): jemalloc serves malloc, which these settings of")


def test_the_json_keeps_its_schema(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    base = report(spread())
    raw = Report(base.process, base.libc, base.allocator, base.method, spread(), ())
    monkeypatch.setattr(app, "survey", lambda _pid, _options: raw)
    assert run(["tune", "7", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    validate(told, "tune")
    assert [one["key"] for one in told["data"]["suggestions"]] == ["arena_max"]
    assert run(["tune", "a-file"]) == 9
