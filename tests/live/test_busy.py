"""A target that never rests: 16 threads in malloc and free all the time.

The passive reading ends in time and says what it could not make sure of. A frozen copy is exact:
glibc, asked in it, gives the very figures that were read, at whatever point of malloc the threads
were caught. The target runs at the lowest priority, so that whoever looks gets a processor too; its
threads are caught in the middle of their work all the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from live.cli import command
from live.programs import wait_until
from live.steady import children, names, same_program

from allocscope.app.arenas import ArenasOptions, arenas
from allocscope.app.arenas_frozen import arenas_frozen
from allocscope.app.ask import ask
from allocscope.lab.fixture import RunningFixture
from allocscope.model.heap import ArenasData
from allocscope.model.report import Report
from allocscope.parse import malloc_info

IN_A_ROW = 100
LONG_PAUSE_NS = 10_000_000_000
LONG_S = 60.0
"""The pause is not what is tested here, and a starved target is slow to stop."""

ONE_ARENA = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0"}


@pytest.fixture
def busy(running: Callable[..., RunningFixture]) -> Callable[..., int]:
    def start(**options: object) -> int:
        return running("busy", command_prefix=("nice", "-n", "19"), **options).pid

    return start


def asked(pid: int) -> Report[ArenasData]:
    options = ArenasOptions(deadline_s=LONG_S)
    return arenas_frozen(pid, options, ask_glibc=True, max_pause_ns=LONG_PAUSE_NS)


def assert_agrees(report: Report[ArenasData]) -> None:
    says = report.data.glibc_says
    assert says is not None
    assert says.differences == ()
    assert says.agrees
    assert report.method.consistency == "frozen"
    assert says.malloc_info is not None
    assert says.malloc_stats is not None
    assert len(says.malloc_info.heaps) == len(says.malloc_stats.arenas) == len(report.data.arenas)


def ran_ns(pid: int) -> list[int]:
    """How long each thread has run."""
    tasks = sorted(Path(f"/proc/{pid}/task").iterdir())
    return [int((task / "schedstat").read_text().split()[0]) for task in tasks]


def assert_unharmed(pid: int, descriptors: list[str]) -> None:
    """Every thread of it goes on, and it has no child and no descriptor that it had not before."""
    assert names(pid, "fd") == descriptors
    assert children(pid) == []
    assert same_program(Path(f"/proc/{pid}/exe").readlink()) == {pid}
    before = ran_ns(pid)[1:]
    wait_until(
        "every thread runs on",
        lambda: all(now > then for now, then in zip(ran_ns(pid)[1:], before, strict=True)),
    )


def test_glibc_agrees_a_hundred_times_in_a_row(busy: Callable[..., int]) -> None:
    pid = busy()
    descriptors = names(pid, "fd")
    caught = 0
    for _ in range(IN_A_ROW):
        report = asked(pid)
        assert_agrees(report)
        assert len(report.data.arenas) == 16
        caught += any(caveat.code == "arena-in-flight" for caveat in report.caveats)
    assert caught, "no thread was ever caught in the middle of an operation: this tested nothing"
    assert_unharmed(pid, descriptors)


def test_glibc_agrees_where_all_threads_fight_for_one_arena(busy: Callable[..., int]) -> None:
    pid = busy(environment=ONE_ARENA)
    descriptors = names(pid, "fd")
    for _ in range(IN_A_ROW // 5):
        assert_agrees(asked(pid))
    assert_unharmed(pid, descriptors)


def test_the_command_that_asks_only_glibc_is_answered_too(busy: Callable[..., int]) -> None:
    pid = busy(environment=ONE_ARENA)
    descriptors = names(pid, "fd")
    for _ in range(IN_A_ROW // 10):
        report = ask(pid, what="both", live=False, max_pause_ns=LONG_PAUSE_NS, deadline_s=LONG_S)
        assert report.data.malloc_info_xml is not None
        assert len(malloc_info.parse(report.data.malloc_info_xml).heaps) == 1
    assert_unharmed(pid, descriptors)


@pytest.mark.parametrize("environment", [{}, ONE_ARENA], ids=["16 arenas", "one arena"])
def test_a_passive_reading_ends_and_says_what_it_is_worth(
    environment: dict[str, str], busy: Callable[..., int]
) -> None:
    pid = busy(environment=environment)
    for _ in range(10):
        report = arenas(pid, ArenasOptions(deadline_s=20.0))
        assert report.method.elapsed_ns < 20e9
        unsure = [arena.index for arena in report.data.arenas if arena.consistency == "partial"]
        assert report.partial == bool(unsure)
        assert report.method.consistency == ("partial" if unsure else "validated")
        told = " ".join(caveat.message for caveat in report.caveats if caveat.partial)
        assert all(str(index) in told for index in unsure)
        for arena in report.data.arenas:
            if arena.consistency != "partial":
                assert (arena.figures.residue_bytes, arena.figures.unread_bytes) == (0, 0)


@pytest.mark.parametrize("seconds", ["20", "0.2"])
def test_the_command_ends_in_time(seconds: str, busy: Callable[..., int]) -> None:
    pid = busy()
    done = command("arenas", str(pid), "--json", "--deadline", seconds)
    assert done.returncode in (0, 6), done.stderr
    answer = json.loads(done.stdout)
    partial = answer["method"]["consistency"] == "partial"
    assert done.returncode == (6 if partial else 0)
    assert len(answer["data"]["arenas"]) == 16
