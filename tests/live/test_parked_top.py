"""Chunks parked in a thread's cache right below top: what they hold, whose they are, and what
another tcache_count gives back, by running the same program with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live.pages import kernel_says
from live.targets import compile_c
from live.targets import running as started
from live.test_explain import explained

from allocscope.app.explain import ExplainOptions, survey
from allocscope.lab.fixture import RunningFixture
from allocscope.model.heap import ParkedEnd
from allocscope.model.ledger import Cause

PARKED, PARKED_CHUNK_BYTES = 7, 1008
FREED_BYTES = 20000 * 2016
SETTING = "glibc.malloc.tcache_count"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c("parked.c", tmp_path_factory.mktemp("parked") / "parked", "-pthread")


@contextlib.contextmanager
def parked(program: Path, low: int, tcache_count: int, *more: str) -> Iterator[int]:
    environment = {"GLIBC_TUNABLES": f"{SETTING}={tcache_count}"}
    with started([program, str(low), *more], environment) as target:
        yield target.pid


def ends_of(pid: int) -> tuple[ParkedEnd, ...]:
    return survey(pid, ExplainOptions()).data.heap.parked_ends


def cause_of(pid: int) -> Cause | None:
    causes = {cause.key: cause for cause in explained(pid).data.causes}
    return causes.get("parked-top")


def test_the_fixtures_cause_names_the_cache_and_its_remedy_gives_what_is_forecast(
    running: Callable[..., RunningFixture],
) -> None:
    target = running("parked-top")
    cause = explained(target.pid).data.causes[0]
    assert cause.key == "parked-top"
    assert f"thread {target.pid} (parked-top): 7 chunks" in cause.evidence[1]
    [gain] = [r.gain_bytes for r in cause.remedies if r.key == "tcache-count"]
    without = running("parked-top", environment={"GLIBC_TUNABLES": f"{SETTING}=0"})
    fallen = kernel_says(target.pid, "Rss") - kernel_says(without.pid, "Rss")
    assert fallen == pytest.approx(gain, rel=0.05)
    assert explained(without.pid).data.causes[0].key == "healthy"


@pytest.mark.parametrize("where", [(), ("thread",)])
def test_in_the_main_heap_and_in_a_threads(program: Path, where: tuple[str, ...]) -> None:
    with parked(program, 0, 7, *where) as pid:
        [end] = ends_of(pid)
        tids = {int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()}
        assert (end.arena_index > 0) == bool(where)
        assert (end.parked_count, end.parked_bytes) == (PARKED, PARKED * PARKED_CHUNK_BYTES)
        [by] = end.threads
        assert by.tid in tids - {pid} if where else by.tid == pid
        assert end.held_bytes == pytest.approx(FREED_BYTES, rel=0.05)
        rss = kernel_says(pid, "Rss")
        cause = cause_of(pid)
    assert cause is not None
    with parked(program, 0, 0, *where) as pid:
        assert rss - kernel_says(pid, "Rss") == pytest.approx(cause.bytes, rel=0.05)
        assert ends_of(pid) == ()


def test_what_the_greater_default_came_to(program: Path) -> None:
    """With a fill of 16 the last chunks are parked too, with one of 7 they are not: the bins were
    full before."""
    with parked(program, 9, 16) as pid:
        [end] = ends_of(pid)
        cause = cause_of(pid)
        rss = kernel_says(pid, "Rss")
    assert [gain.tcache_count for gain in end.gains] == [0, 7]
    assert cause is not None
    assert "the default was 7: with that free() would have given back 38" in cause.evidence[3]
    [remedy] = [remedy for remedy in cause.remedies if remedy.key == "tcache-count"]
    assert remedy.action.endswith(f"{SETTING}=7")
    with parked(program, 9, 7) as pid:
        assert rss - kernel_says(pid, "Rss") == pytest.approx(remedy.gain_bytes, rel=0.05)
        assert cause_of(pid) is None


def test_a_fill_that_makes_no_difference_is_not_recommended(program: Path) -> None:
    with parked(program, 0, 16) as pid:
        cause = cause_of(pid)
    assert cause is not None
    assert cause.evidence[3].endswith("would have given back nothing of it")
    [remedy] = [remedy for remedy in cause.remedies if remedy.key == "tcache-count"]
    assert remedy.action.endswith(f"{SETTING}=0")


def test_a_live_chunk_above_the_parked_ones_is_the_pin(
    running: Callable[..., RunningFixture],
) -> None:
    for name in ("pinned-top", "tcache-hoard"):
        assert ends_of(running(name, scale=0.3).pid) == ()
