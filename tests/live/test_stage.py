"""A copy of the copy that runs one function for us: what it returns, what happens when it does not,
and that nothing of it reaches the process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.steady import Steady, build, children, steady

from allocscope.act import symbols
from allocscope.act.snapshot import frozen
from allocscope.app.target import look
from allocscope.errors import Unsafe
from allocscope.proc import procfs

NAMES = ("malloc_trim", "pause", "abort", "getppid", "labs", "sysconf")
SECOND_NS = 1_000_000_000
_SC_PAGESIZE = 30


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steady]:
    program = build(tmp_path_factory.mktemp("targets"), "steady")
    with steady(program, "--mib", "8") as running:
        yield running


@pytest.fixture(scope="module")
def functions(target: Steady) -> dict[str, int]:
    return symbols.resolve(target.pid, look(target.pid).images[0], NAMES)


def soon(seconds: float = 20) -> int:
    return time.monotonic_ns() + int(seconds * SECOND_NS)


@pytest.fixture(autouse=True)
def unharmed(target: Steady) -> Iterator[None]:
    """Whatever a test does, the process goes on as before and has no child left."""
    condition = target.condition()
    yield
    counts = target.counts()
    assert (counts["errors"], counts["sigchld"]) == (0, 0)
    assert target.condition() == condition
    assert children(target.pid) == []


def test_the_argument_goes_in_and_the_result_comes_out(
    target: Steady, functions: dict[str, int]
) -> None:
    with frozen(target.pid, deadline_ns=soon()) as snapshot:
        for function, argument, result in (
            ("labs", (1 << 64) - 42, 42),
            ("sysconf", _SC_PAGESIZE, 4096),
        ):
            with snapshot.stage((), ()) as stage:
                called = stage.call(functions[function], argument)
            assert called.result == result
            assert 0 < called.duration_ns < 20 * SECOND_NS


def test_it_runs_in_a_child_of_the_copy(target: Steady, functions: dict[str, int]) -> None:
    with frozen(target.pid, deadline_ns=soon()) as snapshot, snapshot.stage((), ()) as stage:
        assert procfs.stat(stage.pid).ppid == snapshot.pid
        assert procfs.status(stage.pid).tracer_pid != 0
        assert stage.call(functions["getppid"], 0).result == snapshot.pid
        assert procfs.stat(stage.pid).state == "t"


def test_a_function_that_does_not_return_is_given_up(
    target: Steady, functions: dict[str, int]
) -> None:
    with (
        frozen(target.pid, deadline_ns=soon(2)) as snapshot,
        snapshot.stage((), ()) as stage,
        pytest.raises(Unsafe, match="did not return"),
    ):
        stage.call(functions["pause"], 0)


@pytest.mark.parametrize(("address", "signal"), [("abort", "SIGABRT"), (8, "SIGSEGV")])
def test_a_function_that_fails_fails_in_the_copy(
    address: str | int, signal: str, target: Steady, functions: dict[str, int]
) -> None:
    function = functions[address] if isinstance(address, str) else address
    with (
        frozen(target.pid, deadline_ns=soon()) as snapshot,
        snapshot.stage((), ()) as stage,
        pytest.raises(Unsafe, match=signal),
    ):
        stage.call(function, 0)


def test_memory_is_locked_there_only(target: Steady) -> None:
    page = target.beat_address & ~4095
    before = Path(f"/proc/{target.pid}/status").read_text()
    assert "VmLck:\t       0 kB" in before
    with (
        frozen(target.pid, deadline_ns=soon()) as snapshot,
        snapshot.stage((), (page, page + 4096)) as stage,
    ):
        assert procfs.status(stage.pid).locked_bytes == 4096
        assert procfs.status(snapshot.pid).locked_bytes == 0
        assert procfs.status(target.pid).locked_bytes == 0


def test_an_end_from_outside_is_told(target: Steady, functions: dict[str, int]) -> None:
    with frozen(target.pid, deadline_ns=soon()) as snapshot, snapshot.stage((), ()) as stage:
        os.kill(stage.pid, 9)
        with pytest.raises(Unsafe, match="did not return"):
            stage.call(functions["pause"], 0)
