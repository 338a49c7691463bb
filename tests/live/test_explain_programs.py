"""`explain` on real programs: the rows are RSS, and next to nothing is unexplained."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.programs import NotInstalled, servers, thread_states, wait_until
from live.test_explain import assert_the_ledger_closes, explained, resident

UNEXPLAINED_RATIO = 0.01
SERVERS = {
    "memcached": servers.memcached,
    "nginx": servers.nginx,
    "node": servers.node,
    "postgres": servers.postgres,
}


@pytest.fixture
def server_pid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """The program that the test names. Skips where it is not installed."""
    try:
        with SERVERS[request.param](tmp_path) as pid:
            yield pid
    except NotInstalled as missing:
        pytest.skip(str(missing))


def assert_explained(pid: int) -> None:
    """Stopped meanwhile, because some of them have threads that wake up by themselves."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until("every thread stops", lambda: set(thread_states(pid)) == {"T"})
        data = explained(pid).data
        assert_the_ledger_closes(pid, data)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert resident(data, "unexplained") < UNEXPLAINED_RATIO * data.rss_bytes
    assert resident(data, "glibc-live") > 0
    assert resident(data, "file-private") > 0


@pytest.mark.parametrize("program", ["http_server_pid", "java_pid", "ruby_pid"])
def test_a_runtime_is_explained(program: str, request: pytest.FixtureRequest) -> None:
    pid = request.getfixturevalue(program)
    assert_explained(pid)
    data = explained(pid).data
    assert resident(data, "runtime-heap") > 1 << 20
    assert resident(data, "thread-stacks") > 20 * 4096


@pytest.mark.parametrize("server_pid", SERVERS, indirect=True)
def test_a_server_is_explained(server_pid: int) -> None:
    assert_explained(server_pid)
