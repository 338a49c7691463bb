"""Real programs that nobody here wrote, as targets: each fixture is the pid of one that is up
and has gone quiet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from live import programs, targets


@pytest.fixture(scope="module")
def http_server_pid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Python's http.server after 200 requests, with 20 threads that wait on open connections."""
    with programs.http_server(tmp_path_factory.mktemp("served")) as pid:
        yield pid


@pytest.fixture(scope="module")
def java_pid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Java program with 20 threads of its own, parked. Skips where Java is not installed."""
    try:
        with programs.java_threads(tmp_path_factory.mktemp("classes")) as pid:
            yield pid
    except programs.NotInstalled as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def ruby_pid() -> Iterator[int]:
    """A Ruby program with 20 threads of its own, asleep. Skips where Ruby is not installed."""
    try:
        with programs.ruby_threads() as pid:
            yield pid
    except programs.NotInstalled as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def waits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small C program that says ready and waits; see targets/waits.c for what else it can do."""
    return targets.compile_c(
        "waits.c", tmp_path_factory.mktemp("targets") / "waits", "-pthread", "-ldl"
    )
