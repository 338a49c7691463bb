"""Real programs that nobody here wrote: they run, the command explains every byte of their arenas,
and glibc agrees with it, with debug symbols on the machine and without."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from live.cli import command, condition
from live.programs import THREADS, NotInstalled, servers, thread_states

THREADED = ["http_server_pid", "java_pid", "ruby_pid"]
OTHERS = [servers.node, servers.memcached, servers.nginx, servers.postgres]
DEBUG_FILES = "/usr/lib/debug"
WITHOUT_DEBUG_FILES = f'mount -t tmpfs none {DEBUG_FILES} && exec "$@"'


@pytest.fixture(params=[*THREADED, *OTHERS], ids=lambda one: getattr(one, "__name__", one))
def program_pid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """Each of the programs in turn. Skips where it is not installed."""
    if isinstance(request.param, str):
        yield request.getfixturevalue(request.param)
        return
    try:
        with request.param(tmp_path) as pid:
            yield pid
    except NotInstalled as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("program", THREADED)
def test_program_runs_with_its_threads(program: str, request: pytest.FixtureRequest) -> None:
    pid = request.getfixturevalue(program)
    assert len(thread_states(pid)) >= THREADS


def answer(*words: str, wrapper: Sequence[str] = ()) -> Any:
    """A complete answer, in which every byte has its place."""
    done = command("arenas", *words, "--json", wrapper=wrapper)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    value = json.loads(done.stdout)
    for arena in value["data"]["arenas"]:
        assert (arena["residue_bytes"], arena["unread_bytes"]) == (0, 0)
    mmapped = value["data"]["mmapped"]
    assert mmapped["found_count"] == mmapped["count"]
    assert mmapped["found_bytes"] == mmapped["bytes"]
    return value


def assert_glibc_agrees(value: Any) -> None:
    says = value["data"]["glibc_says"]
    assert says["differences"] == []
    assert says["agrees"] is True
    assert len(says["malloc_info"]["heaps"]) == len(value["data"]["arenas"])


def test_every_byte_has_its_place(program_pid: int) -> None:
    value = answer(str(program_pid))
    assert value["allocator"]["name"] == "glibc"
    assert value["method"]["consistency"] in ("quiescent", "validated")
    assert value["data"]["totals"]["live_bytes"] > 0


def test_glibc_agrees(program_pid: int) -> None:
    before = condition(program_pid)
    assert_glibc_agrees(answer(str(program_pid), "--ask-glibc"))
    after = condition(program_pid)
    assert after.start_ticks == before.start_ticks
    assert after.descriptors == before.descriptors


@pytest.mark.parametrize("program", THREADED)
def test_the_same_without_debug_symbols(program: str, request: pytest.FixtureRequest) -> None:
    if os.geteuid():
        pytest.skip("needs CAP_SYS_ADMIN to hide the debug symbols")
    pid = str(request.getfixturevalue(program))
    Path(DEBUG_FILES).mkdir(exist_ok=True)
    hidden = ["unshare", "--mount", "sh", "-c", WITHOUT_DEBUG_FILES, "sh"]
    listed = subprocess.run([*hidden, "ls", DEBUG_FILES], capture_output=True, check=True)
    assert listed.stdout == b""
    value = answer(pid, "--ask-glibc", wrapper=hidden)
    assert_glibc_agrees(value)
    assert len(value["data"]["arenas"]) == len(answer(pid)["data"]["arenas"])


def test_no_debug_symbols_are_looked_for(http_server_pid: int, tmp_path: Path) -> None:
    """Not even tried. (gdb cannot be watched like this: two tracers are one too many.)"""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace not installed")
    calls = tmp_path / "calls"
    answer(
        str(http_server_pid),
        wrapper=[strace, "-f", "-qq", "-e", "trace=%file", "-o", str(calls)],
    )
    lines = calls.read_text().splitlines()
    assert any("/libc.so.6" in line for line in lines)
    assert [line for line in lines if f"{DEBUG_FILES}/" in line or ".debug" in line] == []
