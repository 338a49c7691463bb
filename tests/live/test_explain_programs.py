"""`explain` on real programs: the rows are RSS, and next to nothing is unexplained."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.programs import (
    NotInstalled,
    installed,
    java_threads,
    servers,
    thread_states,
    wait_until,
)
from live.test_explain import assert_the_ledger_closes, explained, resident

from allocscope.app.explain import ExplainOptions, survey

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


@pytest.mark.parametrize("options", [(), ("-Xshare:off",), ("-Xshare:off", "-XX:+UseSerialGC")])
def test_javas_classes_and_collectors_tables_are_its_own(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    """The truth is what the machine tells jcmd that it has committed."""
    try:
        with java_threads(tmp_path, *options) as pid:
            for _ in range(2):  # the first answer makes it load classes
                told = subprocess.run(
                    [installed("jcmd"), str(pid), "VM.metaspace"],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            [committed] = re.findall(r"Both: +\S+ \S+ reserved, +(\S+ [KM]B) .*committed", told)
            situation = survey(pid, ExplainOptions()).data
    except NotInstalled as missing:
        pytest.skip(str(missing))
    number, unit = committed.split()
    own = [h for h in situation.holdings if h.owner == "Java metaspace"]
    size = sum(holding.end - holding.start for holding in own)
    truth = float(number) * {"KB": 1 << 10, "MB": 1 << 20}[unit]
    assert 0.9 * truth <= size <= 1.02 * truth  # a piece apart may have no class in it yet
    assert any(holding.owner == "Java collector's tables" for holding in situation.holdings)
    unexplained = sum(h.resident_bytes for h in situation.holdings if h.key == "unexplained")
    assert unexplained < 0.005 * situation.rss_bytes
