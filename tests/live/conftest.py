"""Real programs that nobody here wrote, as targets: each fixture is the pid of one that is up
and has gone quiet. And a control group to put them in."""

from __future__ import annotations

import os
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


@pytest.fixture
def limited_group() -> Iterator[tuple[Path, str]]:
    """A cgroup below our own in which memory can be limited, and the name of the limit's file."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            limit = "memory.max" if kind == "cgroup2" else "memory.limit_in_bytes"
            group = Path(fields.split()[4]) / f"allocscope-test-{os.getpid()}"
            try:
                group.mkdir()
                (group / limit).write_text(str(64 << 20))
            except OSError:
                group.rmdir() if group.exists() else None
                continue
            yield group, limit
            group.rmdir()
            return
    pytest.skip("needs a writable cgroup with the memory controller (CAP_SYS_ADMIN)")
