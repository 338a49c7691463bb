"""What every test may ask for: fixture programs, built once and run for the length of a test."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings
from live.steady import wait_asleep

from allocscope.errors import MissingPart
from allocscope.lab import fixture

# A busy machine is no failure: no example has a deadline of its own.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """SIGINT means what it means at a terminal, also where a shell runs the tests in the
    background and has them ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def c_compiler() -> None:
    """There is a compiler for the fixture programs; otherwise the test is skipped, and says why."""
    try:
        fixture.default_compiler()
    except MissingPart as missing:
        pytest.skip(str(missing))


@pytest.fixture
def running(c_compiler: None) -> Iterator[Callable[..., fixture.RunningFixture]]:
    """A factory: ``running("scattered", seed=7)`` starts that fixture and returns its pid and
    truth, once all its threads sleep (those of `busy` never do). Options are those of
    `allocscope.lab.fixture.run`. Everything started ends with the test."""
    with contextlib.ExitStack() as started:

        def start(name: str, **options: Any) -> fixture.RunningFixture:
            target = started.enter_context(fixture.run(name, **options))
            if name != "busy":
                wait_asleep(target.pid)
            return target

        yield start
