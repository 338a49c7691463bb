"""`check` as a CI job runs it, on real processes: what is exceeded is what the fixture was built to
hold, and a recording or a core is judged as its process was."""

from __future__ import annotations

import ctypes.util
import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from live.cli import ROOT, assert_refused, command, unharmed
from live.core_files import gdbs_core
from live.programs import READY_SECONDS, speaking
from live.recordings import rewritten

from allocscope.app.record import RecordOptions, record
from allocscope.lab.child import child
from allocscope.lab.fixture import RunningFixture

Running = Callable[..., RunningFixture]
MIB = 1 << 20


def told(*words: str, status: int) -> Any:
    """The data of the JSON, valid by its schema."""
    done = command(*words, "--json")
    assert (done.returncode, done.stderr) == (status, "")
    answer = json.loads(done.stdout)
    schema = json.loads((ROOT / "docs" / "schema" / "check.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(answer)
    return answer["data"]


def free_bytes(target: RunningFixture) -> int:
    """What the fixture knows to be free, wherever it is parked. Nearly all of it was written to."""
    known = (target.truth["free_bytes"], target.truth["tcache_bytes"])
    return sum(part for part in known if part is not None)


def test_scattered_exceeds_and_says_why(running: Running, tmp_path: Path) -> None:
    target, report = running("scattered", threads=3), tmp_path / "junit.xml"
    held = free_bytes(target)
    with unharmed(target.pid):
        data = told(
            *("check", str(target.pid), "--max-retained", str(held // 2)),
            *("--max-arenas", "1000", "--junit", str(report)),
            status=1,
        )
    retained, arenas = data["limits"]
    assert retained["exceeded"]
    assert retained["found"] == pytest.approx(held, rel=0.05)
    assert retained["found"] <= held
    assert retained["causes"][0]["key"] == "scattered-live"
    assert any(remedy["key"] == "pins" for remedy in retained["causes"][0]["remedies"])
    assert (arenas["exceeded"], arenas["found"]) == (False, 4)  # one for each thread, and main
    suite = ET.parse(report).getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    failure = suite.find("testcase[@name='max-retained']/failure")
    assert failure is not None
    assert "Live chunks scattered" in (failure.text or "")
    assert suite.find("testcase[@name='max-arenas']/failure") is None


def test_healthy_passes(running: Running) -> None:
    target = running("healthy")
    limits = ("--max-retained", "16MiB", "--max-trimmable", "16MiB", "--max-unexplained-ratio")
    shown = command("check", str(target.pid), *limits, "1%")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith(f"healthy (pid {target.pid}) keeps all 3 limits.\n")


def test_a_trim_brings_a_process_below_its_limit(running: Running) -> None:
    target = running("arena-spread")
    words = ("check", str(target.pid), "--max-trimmable", "4MiB")
    [before] = told(*words, status=1)["limits"]
    assert any(r["key"] == "trim" for cause in before["causes"] for r in cause["remedies"])
    target.trim()
    [after] = told(*words, status=0)["limits"]
    assert after["found"] <= 4 * MIB < before["found"]


def test_the_footprint_is_that_of_footprint(running: Running) -> None:
    target = running("dense")
    [found] = told("check", str(target.pid), "--max-footprint", "1MiB", status=1)["limits"]
    done = command("footprint", str(target.pid), "--json")
    [row] = json.loads(done.stdout)["data"]["rows"]
    assert found["found"] == row["footprint_bytes"]


def test_a_recording_is_judged_as_its_process_was(running: Running, tmp_path: Path) -> None:
    pid, path = str(running("scattered").pid), str(tmp_path / "a.asrec")
    assert command("record", pid, "-o", path).returncode == 0
    limits = ("--max-retained", "1MiB", "--max-trimmable", "1GiB", "--max-arenas", "3")
    limits += ("--max-retained-ratio", "20%", "--max-footprint", "1MiB")
    limits += ("--max-unexplained-ratio", "1%")
    live, recorded = (told("check", target, *limits, status=1) for target in (pid, path))
    for one, other in zip(live["limits"], recorded["limits"], strict=True):
        for name in ("key", "figure", "most", "found", "exceeded"):
            assert one[name] == pytest.approx(other[name], abs=1e-3), name
        keys = [[cause["key"] for cause in limit["causes"]] for limit in (one, other)]
        assert keys[0] == keys[1]
        weights = [[c["exclusive_bytes"] for c in limit["causes"]] for limit in (one, other)]
        assert weights[0] == weights[1]
    assert recorded["limits"][0]["causes"][0]["key"] == "scattered-live"


def test_a_core_is_judged_by_what_it_tells(running: Running, tmp_path: Path) -> None:
    target = running("arena-spread")
    path = str(gdbs_core(target.pid, tmp_path))
    limits = ("--max-retained", "1MiB", "--max-trimmable", "1GiB", "--max-arenas", "1000")
    data = told("check", path, *limits, status=1)
    retained, trimmable, _ = data["limits"]
    assert retained["found"] == pytest.approx(free_bytes(target), rel=0.05)
    assert not trimmable["exceeded"]
    assert data["rss_bytes"] is None
    remedies = [remedy for cause in retained["causes"] for remedy in cause["remedies"]]
    assert "trim" in {remedy["key"] for remedy in remedies}
    assert {remedy["gain_is"] for remedy in remedies} == {"unknown"}
    refused = command("check", path, "--max-retained-ratio", "20%")
    assert_refused(refused, 2, "cannot be judged from a core: it is a share of RSS", "running")


def test_limits_on_glibc_mean_nothing_where_jemalloc_serves_malloc() -> None:
    if ctypes.util.find_library("jemalloc") is None:
        pytest.skip("libjemalloc.so.2 not installed")
    words = [sys.executable, "-c", "import sys; print('ready', flush=True); sys.stdin.read()"]
    with child(words, environment={"LD_PRELOAD": "libjemalloc.so.2"}) as program:
        assert program.line(READY_SECONDS) == "ready"
        shown = command("check", str(program.pid), "--max-retained", "1GiB")
        assert shown.returncode == 6
        assert "PARTIAL: --max-retained judged glibc's arenas only" in shown.stdout
        kept = command("check", str(program.pid), "--max-footprint", "1GiB")
        assert kept.returncode == 0


def test_a_name_that_was_chosen_to_do_harm(tmp_path: Path) -> None:
    code = (
        "import ctypes, sys; name = b'\\x1b[2J<&\\xff>'\n"
        "assert ctypes.CDLL(None).prctl(15, name, 0, 0, 0) == 0\n"  # PR_SET_NAME
        "print('ready', flush=True); sys.stdin.read()"
    )
    report = tmp_path / "junit.xml"
    with speaking([sys.executable, "-c", code]) as pid:
        shown = command("check", str(pid), "--max-arenas", "1", "--junit", str(report))
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout
    case = ET.parse(report).getroot().find(".//testcase")
    assert case is not None
    assert case.get("classname") == "allocscope.check.\\x1b[2J<&\\xff>"


def test_an_old_recording_refuses_what_it_cannot_judge(running: Running, tmp_path: Path) -> None:
    pid, path = running("healthy").pid, tmp_path / "a.asrec"
    record(pid, path, RecordOptions())
    rewritten(path, lambda facts: (facts.pop("kernel"), facts.pop("ownership")))
    for limit in ("--max-footprint=1GiB", "--max-unexplained-ratio=50%"):
        done = command("check", str(path), limit, "--max-retained", "1GiB")
        name = limit.partition("=")[0]
        assert_refused(done, 2, f"{name} cannot be judged from this recording", "Record")


@pytest.mark.parametrize(
    ("words", "cause", "cure"),
    [
        ((), "there is nothing to check", "Give a limit"),
        (("--max-arenas", "1", "--sample", "1"), "--sample and --exe are for files", "Leave"),
        (("--max-arenas", "1", "--junit", "/nowhere/j.xml"), "/nowhere/j.xml cannot be", "another"),
    ],
)
def test_wrong_usage(words: tuple[str, ...], cause: str, cure: str, running: Running) -> None:
    assert_refused(command("check", str(running("healthy").pid), *words), 2, cause, cure)


def test_a_target_that_cannot_be_read_leaves_a_report_of_errors(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    report, nothing = tmp_path / "junit.xml", tmp_path / "a<&\x1b.asrec"
    nothing.write_text("nothing")
    for target, status, kind in (
        (str(gone.pid), 3, "NoSuchProcess"),
        (str(nothing), 9, "BadInput"),
    ):
        words = ("check", target, "--max-arenas", "1", "--max-retained", "1MiB")
        done = command(*words, "--junit", str(report))
        assert (done.returncode, done.stdout) == (status, "")
        suite = ET.parse(report).getroot().find("testsuite")
        assert suite is not None
        counts = [suite.get(name) for name in ("tests", "failures", "errors")]
        assert counts == ["2", "0", "2"]
        errors = {case.get("name"): case.find("error") for case in suite.iter("testcase")}
        assert errors.keys() == {"max-retained", "max-arenas"}
        for error in errors.values():
            assert error is not None
            assert error.get("type") == kind
            assert (error.get("message") or "") in done.stderr
