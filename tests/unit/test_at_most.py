"""Explaining a core: what the rules say over all that can have been resident, and which limits that
decides."""

from __future__ import annotations

import dataclasses

import pytest
from unit import reports
from unit.situations import MIB, arena, holding, situation

from allocscope.causes import explanation
from allocscope.causes.at_most import RULES, explain_core
from allocscope.causes.gate import Found, bounds, figure, judge
from allocscope.model.core_explanation import CoreExplanation
from allocscope.model.gate import Limit, LimitKey
from allocscope.model.situation import ArenaResidence, Situation
from allocscope.render.explain_core import explain_core as page
from allocscope.render.page import Look


def core(*arenas: ArenaResidence, **changes: object) -> Situation:
    return dataclasses.replace(situation(*arenas, **changes), at_most=True)  # type: ignore[arg-type]


def explained(most: Situation, least: Situation) -> CoreExplanation:
    return explain_core(most, least.ledger, least.residence)


def test_a_cause_has_what_it_held_at_most_and_says_what_is_certain() -> None:
    most = core(arena(0, live=10, whole_pages=40))
    data = explained(most, core(arena(0, live=9, whole_pages=25)))
    first = data.causes[0]
    assert (first.key, first.bytes, first.exclusive_bytes) == ("top-pinned", 40 * MIB, 40 * MIB)
    assert (first.confidence, first.share_of_rss_ratio) == ("inferred", None)
    assert "25.0 MiB of it lie on pages that are not zeros" in first.evidence[0]
    assert "the main heap has 50.0 MiB in all" in first.evidence[1]
    assert all(remedy.gain_bytes is None for remedy in first.remedies)
    assert {remedy.gain_is for remedy in first.remedies} == {"unknown"}
    assert "held 50.0 MiB in malloc, of which 10.0 MiB are live and 40.0 MiB free" in data.verdict
    assert "of the free memory 25.0 MiB were in memory or in swap" in data.verdict


def test_rows_have_what_they_span_and_what_is_not_zeros() -> None:
    code = holding("file-private", 2, "/lib/libc.so.6")
    data = explained(
        core(arena(0, live=8, top=2), holdings=(code,)),
        core(arena(0, live=5, top=1), holdings=(code,)),
    )
    rows = {row.key: row for row in data.ledger}
    live = rows["glibc-live"]
    assert (live.virtual_bytes, live.nonzero_bytes) == (8 * MIB, 5 * MIB)
    assert live.resident_bytes is None
    assert rows["file-private"].nonzero_bytes is None
    assert data.heap_bytes == 10 * MIB
    assert data.rss_bytes is data.drift_bytes is data.outside_rss is None


def test_nothing_says_resident_of_a_core() -> None:
    spread = [arena(index, live=1, whole_pages=4, top=2) for index in range(1, 8)]
    data = explained(core(arena(0, top=20), *spread), core(arena(0)))
    for cause in data.causes:
        for said in cause.evidence[1:]:
            assert "resident" not in said
            assert "RSS" not in said


@pytest.mark.parametrize(("free", "healthy"), [(16, True), (17, False)])
def test_healthy_is_what_cannot_have_been_otherwise(free: int, healthy: bool) -> None:
    """Also of a large heap: how large its RSS was is not known."""
    data = explained(core(arena(0, live=500, shared_pages=free)), core(arena(0)))
    assert (data.causes[0].key == "healthy") == healthy


def test_unexplained_memory_is_not_healthy() -> None:
    most = core(arena(0, live=10), holdings=(holding("unexplained", 20),))
    assert explained(most, core(arena(0))).causes == ()


def test_the_page_has_no_column_of_rss() -> None:
    data = explained(core(arena(0, live=10, whole_pages=40)), core(arena(0)))
    report = dataclasses.replace(
        reports.report([reports.arena(0, reports.figures(live=0, bins=0, top=0))]), data=data
    )
    text = page(report, Look(80))
    assert "at most 40.0 MiB" in text
    assert "of RSS" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_rules_are_asked_in_the_order_of_a_live_process() -> None:
    assert [rule for rule in explanation.RULES if rule in RULES] == list(RULES)


# ---- limits ----


def bounded(least: int, most: int) -> Found:
    heaps = [
        reports.report(
            [reports.arena(0, reports.figures(live=0, top=0, bins=size, trimmable=size))]
        ).data
        for size in (least, most)
    ]
    known = [dataclasses.replace(heap, rss_bytes=None) for heap in heaps]
    return Found(known[0], at_most=known[1])


@pytest.mark.parametrize("key", ["max-retained", "max-trimmable"])
def test_a_limit_between_the_bounds_is_not_judged(key: LimitKey) -> None:
    found = bounded(10 * MIB, 30 * MIB)
    assert found.at_most is not None
    least, most = figure(key, found), figure(key, Found(found.at_most))
    assert least is not None and most is not None
    assert 10 * MIB <= least < 11 * MIB < 30 * MIB <= most < 31 * MIB
    for between in (least, 20 * MIB, most - 1):
        assert bounds(Limit(key, between), found) == (least, most)
    for decided in (least - 1, most):
        assert bounds(Limit(key, decided), found) is None
    [over] = judge([Limit(key, least - 1)], found)
    assert (over.exceeded, over.found) == (True, least)
    [kept] = judge([Limit(key, most)], found)
    assert (kept.exceeded, kept.found) == (False, most)


def test_a_figure_that_is_known_has_no_bounds() -> None:
    assert bounds(Limit("max-retained", 1), Found(bounded(5, 9).heap)) is None
    assert bounds(Limit("max-arenas", 1), bounded(5, 9)) is None
