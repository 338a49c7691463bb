"""Every rule: a situation that shows the cause, one that must not, and how causes rank."""

from __future__ import annotations

import dataclasses

import pytest
from unit.situations import (
    MIB,
    SETTINGS,
    arena,
    holding,
    parked_end,
    setting,
    situation,
    smaps,
)

from allocscope.causes.explanation import RULES, explain
from allocscope.model.heap import ParkedBy
from allocscope.model.ledger import CauseKey, OutsideRss
from allocscope.model.libc import Allocator
from allocscope.model.owners import Holding
from allocscope.model.process import (
    CachedFile,
    DescriptorUse,
    Mapping,
    ProcessStatus,
    SmapsEntry,
    SmapsRollup,
)
from allocscope.model.situation import Contention, HugeUse, Situation

SPREAD = [arena(i, live=1, whole_pages=9) for i in range(1, 6)]
RAISED = dataclasses.replace(SETTINGS, trim_threshold_bytes=setting(64 * MIB, "dynamic"))
IN_VAIN = dataclasses.replace(SETTINGS, arena_max=setting(0, without_effect=True))
ROLLUP = SmapsRollup(
    rss_bytes=100 * MIB,
    pss_bytes=60 * MIB,
    pss_anon_bytes=50 * MIB,
    pss_file_bytes=0,
    pss_shmem_bytes=3 * MIB,
    shared_clean_bytes=0,
    shared_dirty_bytes=50 * MIB,
    private_clean_bytes=0,
    private_dirty_bytes=50 * MIB,
    anonymous_bytes=100 * MIB,
    lazyfree_bytes=2 * MIB,
    anon_huge_bytes=0,
    swap_bytes=0,
    swap_pss_bytes=5 * MIB,
    locked_bytes=0,
)
STATUS = ProcessStatus("S", 0, 0, 100 * MIB, 120 * MIB, MIB, 0, 0, 0, (1,), False)


def slabs(count: int, filled_ratio: float = 1.0) -> tuple[Holding, ...]:
    """Pieces of 1 MiB that nobody names, apart from each other."""
    step = 2 * MIB
    return tuple(
        holding(
            "unexplained",
            1,
            start=number * step,
            end=number * step + MIB,
            mapping_index=number,
            resident_bytes=int(MIB * filled_ratio),
        )
        for number in range(1, count + 1)
    )


SHOWS: list[tuple[CauseKey, Situation]] = [
    ("untrimmed-free", situation(arena(0, live=60, whole_pages=40))),
    ("locked-free", situation(arena(0, live=60, whole_pages=40, locked_pages=30))),
    ("scattered-live", situation(arena(0, live=20, shared_pages=60))),
    ("top-pinned", situation(arena(0, live=1, whole_pages=50))),
    ("arena-spread", situation(arena(0, live=1), *SPREAD)),
    ("thread-top", situation(arena(0, live=1), arena(1, live=30, top=25))),
    ("tcache-hoard", situation(arena(0, live=20, tcache=30))),
    ("parked-top", situation(arena(0, whole_pages=40), parked_ends=(parked_end(0, 40),))),
    ("fastbin-hoard", situation(arena(0, live=20, fastbin=30))),
    ("raised-thresholds", situation(arena(0, live=20, top=40), settings=RAISED)),
    ("setting-without-effect", situation(arena(0, live=20), settings=IN_VAIN)),
    ("large-live", situation(arena(0, live=1), holdings=(holding("glibc-mmapped", 40),))),
    (
        "thp-inflation",
        situation(
            arena(0, live=4, whole_pages=36),
            holdings=(holding("glibc-main-heap", 40, "main heap", huge_bytes=40 * MIB),),
            huge=HugeUse(40 * MIB, 40 * MIB, ((0, 30 * MIB),)),
        ),
    ),
    (
        "lazyfree-held",
        situation(
            arena(0, live=1),
            holdings=(holding("unexplained", 30, lazyfree_bytes=24 * MIB),),
            smaps=(smaps(lazyfree=24 * MIB, dirty=6 * MIB),),
        ),
    ),
    ("slab-growth", situation(holdings=slabs(32))),
    ("runtime-heap", situation(holdings=(holding("runtime-heap", 30, "CPython arenas"),))),
    ("other-allocator", situation(holdings=(holding("other-allocator", 30),))),
    ("file-cache", situation(holdings=(holding("file-shared", 30, path="/data"),))),
    ("shared-memory", situation(holdings=(holding("shared-memory", 30),))),
    ("fork-sharing", situation(arena(0, live=100), rollup=ROLLUP)),
    ("swapped-out", situation(arena(0, live=1), smaps=(smaps(swap=40 * MIB),))),
    ("tmpfs-held", situation(outside=(OutsideRss("tmpfs-held", 40 * MIB, "held"),))),
    (
        "descriptor-growth",
        situation(arena(0, live=20), descriptors=DescriptorUse(1000, 1024, "", 0, 0)),
    ),
    ("kernel-memory", situation(outside=(OutsideRss("page-tables", 40 * MIB, "VmPTE"),))),
]
COLLECTED = SmapsEntry(
    Mapping(1 << 40, (1 << 40) + MIB, "r-xp", 0, "fe:00", 7, "/usr/share/dotnet/libcoreclr.so"),
    *([0] * 8),
)


def test_a_runtime_that_is_loaded_is_a_hint_whose_heap_the_unexplained_is() -> None:
    made = situation(holdings=(holding("unexplained", 40),), smaps=(smaps(), COLLECTED))
    found = explain(made)
    first = found.causes[0]
    assert (first.key, first.confidence, first.bytes) == ("runtime-heap", "hint", 40 * MIB)
    assert ".NET" in first.title
    assert "dotnet-counters" in first.remedies[0].action
    assert keys_of(situation(holdings=(holding("unexplained", 40),))) == []


def test_a_runtimes_heap_is_told_with_its_tools_and_its_habit() -> None:
    made = situation(holdings=(holding("runtime-heap", 40, "Go heap"),), smaps=(smaps(), COLLECTED))
    first = explain(made).causes[0]
    assert (first.key, first.confidence) == ("runtime-heap", "measured")
    assert "GOGC" in first.evidence[1]
    assert "GOMEMLIMIT" in first.remedies[0].action


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (DescriptorUse(600, 1024, "", 0, 0), None),
        (DescriptorUse(1000, 1024, "", 0, None), "1000 descriptors are open, of 1024"),
        (DescriptorUse(5000, 1 << 20, "/data/x", 4000, 0), "4000 of 5000 descriptors are of /data"),
        (DescriptorUse(400, 1024, "", 0, 200), "200 TCP connections were closed by the other"),
        (DescriptorUse(400, None, "/data/x", 300, 20), None),
    ],
)
def test_descriptors_that_nobody_closes(use: DescriptorUse, said: str | None) -> None:
    found = explain(situation(arena(0, live=20), descriptors=use)).causes
    told = [cause for cause in found if cause.key == "descriptor-growth"]
    assert [cause.confidence for cause in told] == ["hint"] * (said is not None)
    if said is not None:
        [text] = told[0].evidence
        assert text.startswith(said)
    assert found[0].key == "healthy"  # no bytes are known


@pytest.mark.parametrize(("count", "lines"), [(7, 2), (16, 3)])
def test_what_the_greater_default_of_thread_caches_came_to(count: int, lines: int) -> None:
    settings = dataclasses.replace(SETTINGS, tcache_count=setting(count))
    evidence = (
        explain(situation(arena(0, live=20, tcache=32), settings=settings)).causes[0].evidence
    )
    assert len(evidence) == lines
    if count > 7:
        assert "tcache_count=7 full caches would hold 18.0 MiB less" in evidence[2]


@pytest.mark.parametrize(("with_7", "value", "gain"), [(40, 7, 40), (10, 0, 44), (None, 0, 44)])
def test_the_greatest_fill_that_gives_nearly_all_back_is_recommended(
    with_7: int | None, value: int, gain: int
) -> None:
    made = situation(
        arena(0, whole_pages=30),
        arena(1, whole_pages=20),
        parked_ends=(parked_end(0, 24, with_7=with_7), parked_end(1, 20, with_7=0)),
    )
    trim, fewer = explain(made).causes[0].remedies
    assert trim.key == "trim"
    assert fewer.action.endswith(f"tcache_count={value}")
    assert fewer.gain_bytes == gain * MIB


def test_a_cache_itself_may_be_what_keeps_the_end_of_a_heap() -> None:
    end = dataclasses.replace(
        parked_end(0, 40, with_7=0),
        parked_count=0,
        parked_bytes=0,
        tcache_struct_count=1,
        threads=(ParkedBy(4712, 0, True), ParkedBy(-1, 2, False)),
    )
    first = explain(situation(arena(0, whole_pages=40), parked_ends=(end,))).causes[0]
    assert "nothing is in use but 1 thread cache that lies there" in first.evidence[0]
    assert first.evidence[1] == (
        "whose they are: a thread that is not known: 2 chunks, thread 4712 (worker-1): its cache"
    )
    assert [remedy.key for remedy in first.remedies] == ["trim", "tcache-count", "free-early"]


def test_of_mapped_files_it_is_told_what_has_to_be_written_and_what_is_locked() -> None:
    made = situation(
        holdings=(holding("file-shared", 30, path="/data", mapping_index=0),),
        smaps=(dataclasses.replace(smaps(), locked_bytes=2 * MIB),),
        cached=(CachedFile("/data", 30 * MIB, 64 * MIB, 4 * MIB),),
    )
    _, cache, locked = explain(made).causes[0].evidence
    assert cache == (
        "the page cache holds 64.0 MiB of 1 such file, mapped or not; the kernel can drop it, 4.0 "
        "MiB of it after being written to disk"
    )
    assert locked == "2.0 MiB are locked (mlock) and stay"


MUST_NOT: list[tuple[CauseKey, Situation]] = [
    ("untrimmed-free", situation(arena(0, live=60, shared_pages=10))),
    ("scattered-live", situation(arena(0, live=60, whole_pages=10))),
    ("top-pinned", situation(arena(0, live=60, whole_pages=10))),
    ("top-pinned", situation(arena(0, live=1, whole_pages=20, top=70))),
    ("top-pinned", situation(arena(0, live=10), arena(1, live=1, whole_pages=60))),
    ("top-pinned", situation(arena(0, live=1, whole_pages=50), parked_ends=(parked_end(0, 50),))),
    ("parked-top", situation(arena(0, live=1, whole_pages=50, tcache=5))),
    ("arena-spread", situation(arena(0, live=1), *SPREAD[:3])),
    ("arena-spread", situation(*(arena(i, live=9, whole_pages=1) for i in range(9)))),
    ("thread-top", situation(arena(0, live=10, top=30))),
    ("raised-thresholds", situation(arena(0, live=20, top=40))),
    ("setting-without-effect", situation(arena(0, live=20))),
    ("large-live", situation(arena(0, live=50), holdings=(holding("glibc-mmapped", 4),))),
    ("thp-inflation", situation(arena(0, live=2, whole_pages=38), huge_bytes=40 * MIB)),
    (
        "thp-inflation",
        situation(
            arena(0, live=2, whole_pages=38),
            holdings=(holding("glibc-main-heap", 40, huge_bytes=40 * MIB),),
            huge=HugeUse(40 * MIB, 40 * MIB, ((0, 0),)),
        ),
    ),
    ("lazyfree-held", situation(arena(0, live=20))),
    ("runtime-heap", situation(arena(0, live=90), holdings=(holding("runtime-heap", 10),))),
    (
        "file-cache",
        situation(holdings=(holding("file-private", 30, path="/bin/x", perms="r-xp"),)),
    ),
    ("fork-sharing", situation(arena(0, live=100))),
    ("swapped-out", situation(arena(0, live=20))),
    ("slab-growth", situation(holdings=slabs(7))),
    ("slab-growth", situation(holdings=slabs(64, filled_ratio=0.5))),
    ("locked-free", situation(arena(0, live=60, whole_pages=40))),
    ("tcache-hoard", situation(arena(0, live=20, fastbin=30))),
    ("fastbin-hoard", situation(arena(0, live=20, tcache=30))),
    ("other-allocator", situation(holdings=(holding("runtime-heap", 30, "CPython arenas"),))),
    ("shared-memory", situation(holdings=(holding("file-shared", 30, path="/data"),))),
    ("tmpfs-held", situation(outside=(OutsideRss("page-tables", 40 * MIB, "VmPTE"),))),
    ("kernel-memory", situation(outside=(OutsideRss("tmpfs-held", 40 * MIB, "held"),))),
    (
        "descriptor-growth",
        situation(arena(0, live=20), descriptors=DescriptorUse(600, 1024, "", 0, 0)),
    ),
]


def keys_of(made: Situation) -> list[CauseKey]:
    return [cause.key for cause in explain(made).causes]


@pytest.mark.parametrize(("key", "made"), SHOWS, ids=[key for key, _ in SHOWS])
def test_a_situation_shows_its_cause(key: CauseKey, made: Situation) -> None:
    found = explain(made)
    cause = next(cause for cause in found.causes if cause.key == key)
    assert cause.title
    assert cause.evidence
    assert all(remedy.action and remedy.cost for remedy in cause.remedies)
    if key not in ("setting-without-effect", "descriptor-growth"):
        assert found.causes[0].key == key
        assert cause.exclusive_bytes <= cause.bytes
        assert "healthy" not in keys_of(made)


@pytest.mark.parametrize(("key", "made"), MUST_NOT)
def test_another_situation_does_not(key: CauseKey, made: Situation) -> None:
    assert key not in keys_of(made)


def test_every_rule_is_shown_by_a_situation() -> None:
    assert len(SHOWS) == len(RULES)
    for rule in RULES:
        assert any(rule(made) is not None for _, made in SHOWS), rule.__name__
    assert {key for key, _ in MUST_NOT} == {key for key, _ in SHOWS}


def test_a_byte_counts_in_one_cause_only() -> None:
    made = situation(arena(0, live=1, whole_pages=30), *SPREAD)
    found = explain(made)
    total = sum(cause.exclusive_bytes for cause in found.causes)
    assert total <= made.rss_bytes
    by_key = {cause.key: cause for cause in found.causes}
    assert by_key["arena-spread"].exclusive_bytes == 45 * MIB
    assert by_key["top-pinned"].exclusive_bytes == 30 * MIB
    assert "untrimmed-free" not in by_key  # the others have all of it
    assert [c.exclusive_bytes for c in found.causes] == sorted(
        (c.exclusive_bytes for c in found.causes), reverse=True
    )


@pytest.mark.parametrize(
    ("live", "free", "healthy"),
    [(100, 15, True), (100, 17, False), (300, 30, True), (300, 36, False)],
)
def test_healthy_up_to_16_mib_or_a_tenth_of_rss(live: int, free: int, healthy: bool) -> None:
    found = explain(situation(arena(0, live=live, shared_pages=free)))
    assert (found.causes[0].key == "healthy") == healthy
    assert found.verdict.endswith("healthy.") == healthy
    assert [c.key for c in found.causes if c.key != "healthy"] == ["scattered-live"]


def test_names_that_no_glibc_reads_are_told() -> None:
    environ = {
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_TRIM_THRESHOLD": "100000",
        "MALLOC_MAX_ARENAS": "2",
        "MALLOC_CONF": "narenas:2",
        "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0:glibc.malloc.arenas=2:glibc.cpu.x=1",
    }
    causes = {cause.key: cause for cause in explain(situation(environ=environ)).causes}
    assert causes["setting-without-effect"].evidence == (
        "no glibc reads MALLOC_TRIM_THRESHOLD; the name is MALLOC_TRIM_THRESHOLD_",
        "no glibc reads MALLOC_MAX_ARENAS",
        "no glibc knows the tunable glibc.malloc.arenas",
    )


def test_the_chunk_that_pins_is_named() -> None:
    main = dataclasses.replace(
        arena(0, live=1, whole_pages=50), last_live=0x55D0_0300_0010, last_live_bytes=112
    )
    evidence = explain(situation(main)).causes[0].evidence
    assert evidence[-1] == "the live chunk nearest to top is one of 112 bytes at 0x55d003000010"


def test_contention_is_told_where_arenas_are_judged() -> None:
    made = situation(arena(0, live=1), *SPREAD, contention=Contention(200, 50, 2))
    assert (
        "in 200 looks at the arenas' locks 25 % were taken, 1 % with others waiting"
        in explain(made).causes[0].evidence
    )


def test_what_is_unexplained_is_not_called_healthy() -> None:
    found = explain(situation(arena(0, live=20), holdings=(holding("unexplained", 20),)))
    assert found.causes == ()
    assert found.verdict == (
        "server (pid 4711) has 40.0 MiB resident, of which 20.0 MiB are unexplained: no structure "
        "of a known owner was found there (50 %)."
    )


def test_where_another_allocator_serves_malloc_what_is_unexplained_is_a_hint_at_it() -> None:
    made = situation(
        arena(0, live=1),
        holdings=(holding("unexplained", 50),),
        allocator=Allocator("jemalloc", ()),
    )
    first = explain(made).causes[0]
    assert (first.key, first.confidence) == ("other-allocator", "hint")
    assert first.exclusive_bytes == 50 * MIB
    assert "jemalloc" in first.title


def test_the_verdict_names_the_process_the_cause_and_the_gain() -> None:
    verdict = explain(situation(arena(0, live=2, whole_pages=48))).verdict
    assert verdict == (
        "server (pid 4711) has 50.0 MiB resident, of which 48.0 MiB are free in a main heap that a "
        "live chunk near its end keeps from shrinking (96 %); malloc_trim(0) would give back about "
        "48.0 MiB."
    )


def test_a_trim_that_gives_nothing_back_is_not_offered() -> None:
    found = explain(situation(arena(0, live=1), *(arena(i, live=1, top=9) for i in range(1, 6))))
    assert found.causes[0].key == "arena-spread"
    assert [remedy.key for remedy in found.causes[0].remedies] == ["arena-max"]


def test_footprint_and_peak_are_told_where_the_kernel_does() -> None:
    made = situation(arena(0, live=100), rollup=ROLLUP, status=STATUS)
    assert explain(made).footprint_bytes == (50 + 3 + 5 - 2 + 1) * MIB
    assert explain(made).peak_rss_bytes == 120 * MIB
    assert explain(situation()).footprint_bytes is None
