"""Processes with very much of everything: all of it is counted, and the work grows no faster than
what there is. Work is counted in reads of memory and elements of lists, never in time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import pytest
from live.bad_targets import PATIENCE_S
from live.cli import unharmed
from live.steady import wait_state
from live.targets import compile_c

from allocscope import observe
from allocscope.lab.child import child
from allocscope.lab.fixture import RunningFixture
from allocscope.native.memory import NativeMemory

MANY = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Crowd:
    """What targets/crowd.c says of itself; live chunks are those of the threads, sums are
    mallinfo2's."""

    pid: int
    live_count: int
    live_bytes: int
    mmapped_count: int
    mmapped_bytes: int
    system_bytes: int


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c("crowd.c", tmp_path_factory.mktemp("crowd") / "crowd", "-pthread")


@pytest.fixture
def crowd(program: Path) -> Iterator[Callable[..., Crowd]]:
    with contextlib.ExitStack() as stack:

        def start(*numbers: int, arena_max: int | None = None) -> Crowd:
            environment = dict(os.environ)
            if arena_max is not None:
                environment["MALLOC_ARENA_MAX"] = str(arena_max)
            started = stack.enter_context(child([str(program), *map(str, numbers)], environment))
            said = Crowd(**json.loads(started.line(PATIENCE_S)))
            wait_state(said.pid, "S")
            stack.enter_context(unharmed(said.pid))
            return said

        yield start


@contextlib.contextmanager
def calls_counted() -> Iterator[dict[str, int]]:
    """How often memory is asked, within the block."""
    counted: dict[str, int] = {}

    def counting(name: str) -> Callable[..., object]:
        plain = getattr(NativeMemory, name)

        def call(self: NativeMemory, *arguments: object, **options: object) -> object:
            counted[name] = counted.get(name, 0) + 1
            return plain(self, *arguments, **options)

        return call

    with contextlib.ExitStack() as stack:
        for name in ("read", "read_each", "runs", "residency", "chase", "walk"):
            stack.enter_context(mock.patch.object(NativeMemory, name, counting(name)))
        yield counted


def test_a_thousand_arenas(crowd: Callable[..., Crowd]) -> None:
    said = crowd(MANY - 1, 0, 0, arena_max=MANY)
    with calls_counted() as counted:
        data = observe(said.pid).data
    assert len(data.arenas) == MANY
    assert [arena.figures.residue_bytes for arena in data.arenas] == [0] * MANY
    assert data.totals.unread_bytes == 0
    assert data.totals.system_bytes == said.system_bytes
    threads = [arena.figures for arena in data.arenas[1:]]
    assert sum(figures.live_count for figures in threads) == said.live_count
    assert sum(figures.live_bytes for figures in threads) == said.live_bytes
    assert len(data.threads) == MANY
    assert {thread.arena_index for thread in data.threads} == set(range(MANY))
    assert counted["walk"] == MANY
    assert sum(counted.values()) < 20 * MANY


def test_thousands_of_threads(running: Callable[..., RunningFixture]) -> None:
    target = running("arena-spread", threads=3000, scale=0.003)
    truth = target.truth
    with calls_counted() as counted:
        report = observe(target.pid)
    totals = report.data.totals
    assert not report.partial
    assert report.process.thread_count == len(report.data.threads) == truth["thread_count"] == 3001
    assert totals.live_count == (truth["live_count"] or 0) + (truth["glibc_own_count"] or 0)
    assert totals.live_bytes == (truth["live_chunk_bytes"] or 0) + (truth["glibc_own_bytes"] or 0)
    assert (totals.tcache_count, totals.tcache_bytes) == (
        truth["tcache_count"],
        truth["tcache_bytes"],
    )
    assert (totals.system_bytes, totals.residue_bytes) == (truth["system_bytes"], 0)
    assert sum(thread.tcache_count for thread in report.data.threads) == truth["tcache_count"]
    assert sum(counted.values()) < 4 * 3001


@pytest.mark.parametrize("aligned", [0, 100])
def test_tens_of_thousands_of_mappings(aligned: int, crowd: Callable[..., Crowd]) -> None:
    said = crowd(1, 26_000, 4000, aligned)
    assert len(Path(f"/proc/{said.pid}/maps").read_text().splitlines()) > 26_000
    with calls_counted() as counted:
        report = observe(said.pid)
    mmapped = report.data.mmapped
    assert (mmapped.found_count, mmapped.found_bytes) == (said.mmapped_count, said.mmapped_bytes)
    assert (said.mmapped_count, mmapped.count) == (4000, 4000)
    assert mmapped.resident_bytes >= 4000 * 4096
    assert report.data.totals.residue_bytes == 0
    # chunks that follow on each other are read one by one; the other mappings many at once
    assert sum(counted.values()) < 2 * 4000 + 2 * aligned + 1000


def searched(said: Crowd, missing: int) -> Sequence[tuple[int, int]]:
    """What is found where glibc counts more than there is, so that the search goes on to its
    end."""
    from allocscope.app.target import look
    from allocscope.glibc.mmapped import find_mmapped
    from allocscope.proc.memory import ProcessMemory

    spans = look(said.pid).anonymous_spans
    with ProcessMemory(said.pid) as memory:
        return find_mmapped(
            memory, spans, False, said.mmapped_count + missing, said.mmapped_bytes + 4096 * missing
        )


def test_a_search_in_vain_comes_to_its_end(crowd: Callable[..., Crowd]) -> None:
    said = crowd(1, 20_000, 10, 5)
    with calls_counted() as counted:
        found = searched(said, missing=1)
    assert len(found) >= 10
    assert counted["read_each"] < 1000
    assert sum(counted.values()) < 15_000  # the page states of every other mapping, once


def test_millions_of_chunks_in_fastbins(running: Callable[..., RunningFixture]) -> None:
    target = running("fastbin-hoard", threads=2, scale=16)
    data = observe(target.pid).data
    assert (target.truth["fastbin_count"] or 0) > 1_000_000
    assert data.totals.fastbin_count == target.truth["fastbin_count"]
    assert data.totals.fastbin_bytes == target.truth["fastbin_bytes"]
    assert data.totals.residue_bytes == 0
