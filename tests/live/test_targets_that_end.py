"""A target that goes away while it is read, and readings that have no time: each ends soon, with
the documented exit code, and says what happened."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from live.bad_targets import built
from live.cli import assert_refused, command, unharmed

import allocscope.app.arenas as app
from allocscope.app import heap
from allocscope.cli.group import run
from allocscope.lab.fixture import RunningFixture


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return built(tmp_path_factory.mktemp("programs"), "waiter")


STEPS: list[tuple[object, str]] = [
    (app, "look"),
    (app, "read_smaps"),
    (heap, "find_malloc"),
    (heap, "read_heap"),
    (app, "allocator_of"),
]


@pytest.mark.parametrize("collected", [True, False], ids=["collected", "zombie"])
@pytest.mark.parametrize(("room", "step"), STEPS, ids=[name for _, name in STEPS])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_dies_half_way(
    room: object,
    step: str,
    when: str,
    collected: bool,
    program: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    process = subprocess.Popen([program, "10"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    assert process.stdout.readline() == b"ready\n"
    original = getattr(room, step)

    def end() -> None:
        process.kill()
        if collected:
            process.wait()
        else:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    def deadly(*arguments: Any, **options: Any) -> Any:
        if when == "before":
            end()
        result = original(*arguments, **options)
        if when == "after":
            end()
        return result

    monkeypatch.setattr(room, step, deadly)
    with process:
        status = run(["arenas", str(process.pid)])
    shown = capsys.readouterr()
    assert (status, shown.out) == (3, ""), shown.err
    assert f"process {process.pid}" in shown.err


@pytest.fixture
def scattered(running: Callable[..., RunningFixture]) -> int:
    return running("scattered").pid


@pytest.mark.parametrize("seconds", ["0.001", "1e-9"])
def test_a_deadline_that_nobody_can_meet(seconds: str, scattered: int) -> None:
    with unharmed(scattered):
        done = command("arenas", str(scattered), "--deadline", seconds, "--json")
    assert (done.returncode, done.stderr) == (6, "")
    value = json.loads(done.stdout)
    assert [caveat["code"] for caveat in value["caveats"]] == ["deadline"]
    assert "arenas 0, 1" in value["caveats"][0]["message"]
    assert "raise --deadline" in value["caveats"][0]["message"]
    assert value["method"]["consistency"] == "partial"
    assert value["data"]["totals"]["unread_bytes"] > 0
    assert all(arena["residue_bytes"] == 0 for arena in value["data"]["arenas"])


@pytest.mark.parametrize(
    "words",
    [["arenas", "--snapshot"], ["arenas", "--ask-glibc"], ["ask"], ["ask", "--live"]],
    ids=" ".join,
)
def test_no_snapshot_and_no_call_without_time(words: list[str], scattered: int) -> None:
    with unharmed(scattered):
        done = command(*words, str(scattered), "--deadline", "0.001")
    assert_refused(done, 7, "", "--deadline")


@pytest.mark.parametrize("option", ["--deadline", "--max-pause"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "1e300", "soon"])
def test_a_time_that_is_none(option: str, value: str) -> None:
    done = command("arenas", "1", option, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Invalid value for '{option}'" in done.stderr
