"""`explain` on the fixtures: the ledger is the kernel's RSS and the fixture's own arithmetic, and
the first cause is what the fixture was built to be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from live.pages import kernel_says
from live.programs import READY_SECONDS

from allocscope.app.explain import ExplainOptions, explain, survey
from allocscope.lab import fixture
from allocscope.lab.child import child
from allocscope.lab.fixture import RunningFixture
from allocscope.model.ledger import Explanation, LedgerKey
from allocscope.model.report import Report

Running = Callable[..., RunningFixture]

FIRST_CAUSE = {
    "arena-spread": "arena-spread",
    "big-mmaps": "large-live",
    "dense": "healthy",
    "fastbin-hoard": "fastbin-hoard",
    "healthy": "healthy",
    "lazyfree": "lazyfree-held",
    "parked-top": "parked-top",
    "pinned-top": "top-pinned",
    "scattered": "scattered-live",
    "tcache-hoard": "tcache-hoard",
}
OWN_AREA = {"lazyfree": 32 << 20}
"""Memory that a fixture maps for itself: nothing in it says whose it is."""


def explained(pid: int) -> Report[Explanation]:
    return explain(pid, ExplainOptions())


def resident(data: Explanation, *keys: LedgerKey) -> int:
    return sum(row.resident_bytes for row in data.ledger if row.key in keys)


def virtual(data: Explanation, key: LedgerKey) -> int:
    return next(row.virtual_bytes for row in data.ledger if row.key == key)


def assert_the_ledger_closes(pid: int, data: Explanation) -> None:
    assert data.rss_bytes == kernel_says(pid, "Rss")
    assert sum(row.resident_bytes for row in data.ledger) + data.drift_bytes == data.rss_bytes
    assert data.drift_bytes == 0
    assert all(row.evidence for row in data.ledger if row.resident_bytes)
    assert sum(row.swapped_bytes or 0 for row in data.ledger) == kernel_says(pid, "Swap")


def test_every_fixture_has_an_expected_cause() -> None:
    assert FIRST_CAUSE.keys() == set(fixture.names()) - {"busy"}


@pytest.mark.parametrize("name", FIRST_CAUSE)
def test_the_cause_comes_first_and_the_ledger_closes(name: str, running: Running) -> None:
    target = running(name, seed=5)
    report = explained(target.pid)
    data = report.data
    assert_the_ledger_closes(target.pid, data)
    assert report.caveats == ()
    assert resident(data, "unexplained") == OWN_AREA.get(name, 0)
    assert data.causes[0].key == FIRST_CAUSE[name], data.verdict
    exclusive = [cause.exclusive_bytes for cause in data.causes if cause.key != "healthy"]
    assert exclusive == sorted(exclusive, reverse=True)
    assert [cause.key for cause in data.causes].count("healthy") == (name in ("healthy", "dense"))


@pytest.mark.parametrize("name", FIRST_CAUSE)
def test_the_rows_of_malloc_are_the_fixtures_own_arithmetic(name: str, running: Running) -> None:
    target = running(name, seed=6)
    data, truth = explained(target.pid).data, target.truth

    def told(figure: str) -> int:
        value = truth[figure]
        assert value is not None
        return value

    assert virtual(data, "glibc-live") == told("live_chunk_bytes") + told("glibc_own_bytes")
    assert virtual(data, "glibc-tcache") == told("tcache_bytes")
    assert virtual(data, "glibc-fastbin") == told("fastbin_bytes")
    assert virtual(data, "glibc-mmapped") == told("mmapped_bytes")
    free = ("glibc-fastbin", "glibc-free-whole-pages", "glibc-free-shared-pages", "glibc-top")
    assert sum(virtual(data, key) for key in free) == told("free_bytes")
    heap = (*free, "glibc-live", "glibc-tcache", "glibc-overhead", "glibc-unread")
    assert sum(virtual(data, key) for key in heap) >= told("system_bytes")
    assert resident(data, "glibc-mmapped") >= told("mmapped_written_bytes")


@pytest.mark.parametrize(
    "name", ["arena-spread", "fastbin-hoard", "parked-top", "pinned-top", "scattered"]
)
def test_a_trim_releases_what_the_remedy_forecasts(name: str, running: Running) -> None:
    target = running(name, seed=7)
    data = explained(target.pid).data
    remedies = [remedy for cause in data.causes for remedy in cause.remedies]
    gains = {remedy.gain_bytes for remedy in remedies if remedy.key == "trim"}
    before = kernel_says(target.pid, "Rss")
    target.trim()
    released = before - kernel_says(target.pid, "Rss")
    assert [released] == pytest.approx(list(gains), rel=0.05)
    after = explained(target.pid).data
    assert resident(after, "glibc-free-whole-pages") == 0


def test_without_a_tcache_the_hoard_is_as_much_smaller_as_was_forecast(running: Running) -> None:
    target = running("tcache-hoard")
    cause = explained(target.pid).data.causes[0]
    [gain] = [r.gain_bytes for r in cause.remedies if r.key == "tcache-count"]
    setting = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
    without = running("tcache-hoard", environment=setting)
    fallen = kernel_says(target.pid, "Rss") - kernel_says(without.pid, "Rss")
    assert fallen == pytest.approx(gain, rel=0.2)
    assert explained(without.pid).data.causes[0].key == "healthy"


def test_fewer_arenas_give_back_nothing_where_all_threads_are_busy_at_once(
    running: Running,
) -> None:
    """So the gain is called unknown, however many arenas stand empty now."""
    target = running("arena-spread")
    cause = explained(target.pid).data.causes[0]
    assert [r.gain_is for r in cause.remedies if r.key == "arena-max"] == ["unknown"]
    few = running("arena-spread", environment={"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"})
    assert kernel_says(few.pid, "Rss") > 0.9 * kernel_says(target.pid, "Rss")


def test_the_chunk_that_pins_the_heap_is_named(running: Running) -> None:
    cause = explained(running("pinned-top").pid).data.causes[0]
    assert cause.key == "top-pinned"
    assert any("one of 112 bytes at 0x" in text for text in cause.evidence)


@pytest.mark.parametrize("name", ["busy", "healthy"])
def test_locks_are_found_taken_where_threads_allocate(name: str, running: Running) -> None:
    seen = survey(running(name).pid, ExplainOptions()).data.contention
    assert seen is not None
    assert seen.look_count >= 64
    assert (seen.locked_count > 0) == (name == "busy")


def test_a_server_that_has_just_started_is_healthy(tmp_path: Path) -> None:
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with child([*command, "--directory", str(tmp_path)], ends_at_eof=False) as server:
        assert "port" in server.line(READY_SECONDS)
        data = explained(server.pid).data
    assert data.causes[0].key == "healthy"
    assert data.verdict.endswith("healthy.")


def test_a_busy_process_gets_an_answer_that_says_how_far_it_holds(running: Running) -> None:
    report = explained(running("busy").pid)
    data = report.data
    assert sum(row.resident_bytes for row in data.ledger) + data.drift_bytes == data.rss_bytes
    assert data.causes[0].key == "healthy"
    codes = {caveat.code for caveat in report.caveats}
    assert not data.drift_bytes or "drift" in codes
