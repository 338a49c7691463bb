"""`map`, `tune`, `trim`, `lazyfree` and `footprint` of recordings: of a process that stands still,
what they say of it alive; of less than a recording can hold, no more than that."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live import targets
from live.cli import assert_refused, command
from live.programs import speaking, thread_states, wait_until
from live.recordings import rewritten
from live.test_contract import answer
from live.test_explain_file import PYTHON

from allocscope.app import arenas as app_arenas
from allocscope.app.footprint import Selection, footprint
from allocscope.app.footprint_file import footprint_of_file
from allocscope.app.lazyfree import lazyfree
from allocscope.app.lazyfree_file import lazyfree_of_file
from allocscope.app.map import map_process
from allocscope.app.map_file import map_of_file
from allocscope.app.record import RecordOptions, record
from allocscope.app.trim import TrimOptions, trim
from allocscope.app.trim_file import trim_of_file
from allocscope.app.tune import tune
from allocscope.app.tune_file import tune_of_file
from allocscope.errors import BadInput
from allocscope.lab import fixture
from allocscope.lab.child import Child
from allocscope.lab.fixture import RunningFixture
from allocscope.model.footprint import Footprint, FootprintAnswer
from allocscope.model.lazyfree import LazyfreeData
from allocscope.model.mapview import MapData
from allocscope.model.report import Report
from allocscope.model.trim import TrimData
from allocscope.model.tune import TuneData

Running = Callable[..., RunningFixture]
DEADLINE_S = 60.0
RESTING = [name for name in fixture.names() if name != "busy"]
RUNTIMES = ["http_server_pid", "java_pid", "ruby_pid"]


def recorded(pid: int, path: Path) -> Path:
    record(pid, path, RecordOptions())
    return path


def map_of(path: Path) -> Report[MapData]:
    return map_of_file(path, raw=True, sample=None, exe=None, deadline_s=DEADLINE_S)


def tune_of(path: Path) -> Report[TuneData]:
    return tune_of_file(path, sample=None, exe=None, deadline_s=DEADLINE_S)


def trim_of(path: Path, pad_bytes: int = 0) -> Report[TrimData]:
    return trim_of_file(path, TrimOptions(pad_bytes), sample=None, exe=None)


def lazyfree_of(path: Path) -> Report[LazyfreeData]:
    return lazyfree_of_file(path, sample=None)


def footprint_of(path: Path, retained: bool = False) -> FootprintAnswer:
    return footprint_of_file(path, sample=None, retained=retained)


def codes(report: Report[Any] | FootprintAnswer) -> list[str]:
    return [caveat.code for caveat in report.caveats]


# ---- the same as alive ----

OF_OTHERS = ("pss_bytes", "uss_bytes", "tree_footprint_bytes")
"""A process's share of pages falls and rises with who else maps them."""


def its_own(row: Footprint) -> Footprint:
    return dataclasses.replace(row, **dict.fromkeys(OF_OTHERS))


def what_goes(data: TrimData) -> TrimData:
    """Without what was measured on this machine at this moment."""
    forecast = data.forecast
    still = dataclasses.replace(
        forecast,
        pace=dataclasses.replace(forecast.pace, call_ns=0, page_ns=0, fault_ns=0),
        estimated_ns=0,
        estimated_most_ns=0,
        estimated_refault_ns=0,
    )
    return dataclasses.replace(data, forecast=still)


def assert_the_same(pid: int, path: Path) -> None:
    """Of a process that stands still: every field that is its own."""
    recorded(pid, path)
    assert map_of(path).data == map_process(pid, raw=True, deadline_s=DEADLINE_S).data
    assert tune_of(path).data == tune(pid, DEADLINE_S).data
    assert what_goes(trim_of(path).data) == what_goes(trim(pid, TrimOptions()).data)
    assert lazyfree_of(path).data == lazyfree(pid).data
    [row] = footprint_of(path, retained=True).data.rows
    [live] = footprint(Selection((pid,)), retained=True).data.rows
    assert its_own(row) == its_own(live)
    assert row.pss_bytes is not None and row.tree_footprint_bytes is None
    reports: list[Report[Any]] = [map_of(path), tune_of(path), trim_of(path), lazyfree_of(path)]
    for report in reports:
        assert report.method.source == "recording"
        assert report.process.pid == pid
        assert report.captured_at is not None
    assert [codes(report) for report in reports] == [[], [], ["pace-here"], []]
    assert codes(footprint_of(path)) == []


@pytest.mark.parametrize("name", RESTING)
def test_a_recording_tells_what_its_process_tells(
    name: str, running: Running, tmp_path: Path
) -> None:
    assert_the_same(running(name, seed=7, scale=0.5).pid, tmp_path / "a.asrec")


def test_a_python(tmp_path: Path) -> None:
    with speaking([sys.executable, "-c", PYTHON]) as pid:
        assert_the_same(pid, tmp_path / "a.asrec")


@pytest.mark.parametrize("program", RUNTIMES)
def test_a_runtime(program: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Stopped meanwhile, because some of them have threads that wake up by themselves."""
    pid = request.getfixturevalue(program)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until("every thread stops", lambda: set(thread_states(pid)) == {"T"})
        assert_the_same(pid, tmp_path / "a.asrec")
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[Child]:
    program = targets.compile_c("locked.c", directory / "locked", "-pthread")
    with targets.running([program]) as child:
        yield child


def test_what_is_mlocked_and_padded_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with locked(tmp_path) as child:
        path = recorded(child.pid, tmp_path / "a.asrec")
        for pad_bytes in (0, 4096, 300_000, 1 << 40):
            there = what_goes(trim(child.pid, TrimOptions(pad_bytes)).data)
            here = what_goes(trim_of(path, pad_bytes).data)
            assert here == there
        assert here.forecast.stays.locked_bytes > 0
        monkeypatch.setattr(app_arenas, "SMAPS_MAX_RSS_BYTES", 0)
        report = trim_of(recorded(child.pid, tmp_path / "b.asrec"))
    assert report.data.forecast.stays.locked_bytes == 0
    assert codes(report) == ["mlocked", "pace-here"]


# ---- what a recording does not hold ----


WHOLE = ("glibc-main-heap", "glibc-thread-heap", "thread-stacks")


def test_without_smaps_files_have_no_figures(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, path = running("scattered", scale=0.5), tmp_path / "a.asrec"
    monkeypatch.setattr(app_arenas, "SMAPS_MAX_RSS_BYTES", 0)
    recorded(target.pid, path)
    live = map_process(target.pid, raw=True, deadline_s=DEADLINE_S).data
    report = map_of(path)
    data = report.data
    assert codes(report) == ["not-recorded"]
    assert data.totals.virtual_bytes == live.totals.virtual_bytes
    assert data.totals.resident_bytes is None
    assert data.mapping_count == live.mapping_count
    assert [(p.start, p.end, p.key, p.owner) for p in data.parts] == [
        (p.start, p.end, p.key, p.owner) for p in live.parts
    ]
    told = {p.start: p.resident_bytes for p in data.parts if p.resident_bytes is not None}
    assert told == {p.start: p.resident_bytes for p in live.parts if p.start in told}
    untold = {p.key for p in data.parts if p.resident_bytes is None}
    assert untold == {"file-private", "loader-and-special"}
    rows = {row.key: row.sizes.resident_bytes for row in data.rows if row.key in WHOLE}
    assert rows == {row.key: row.sizes.resident_bytes for row in live.rows if row.key in WHOLE}
    shown = command("map", str(path))
    assert shown.returncode == 0
    assert "?" in shown.stdout
    with pytest.raises(BadInput, match="smaps was not read"):
        lazyfree_of(path)
    answered = footprint_of(path, retained=True)
    [row] = answered.data.rows
    [alive] = footprint(Selection((target.pid,)), retained=True).data.rows
    assert codes(answered) == ["not-recorded", "retained-omits"]
    assert (row.footprint_bytes, row.pss_bytes, answered.data.totals.pss_bytes) == (None,) * 3
    assert row.retained_bytes == alive.retained_bytes
    assert row.page_table_bytes == alive.page_table_bytes
    assert (
        what_goes(trim_of(path).data).forecast
        == what_goes(trim(target.pid, TrimOptions()).data).forecast
    )
    assert answer("footprint", str(path))["data"]["rows"][0]["footprint_bytes"] is None
    assert answer("map", str(path), "--raw")["data"]["totals"]["resident_bytes"] is None


def test_older_recordings_tell_what_they_hold(running: Running, tmp_path: Path) -> None:
    target, path = running("lazyfree", scale=0.5), tmp_path / "a.asrec"
    recorded(target.pid, path)
    live, whole = lazyfree(target.pid).data, lazyfree_of(path).data
    assert whole.lazyfree_bytes == target.truth["lazyfree_bytes"]
    rewritten(path, lambda facts: (facts.pop("lazyfree"), facts.pop("contention")))
    report = lazyfree_of(path)
    assert codes(report) == ["pages-not-seen"]
    assert (report.data.exact, report.data.rewritten_bytes) == (False, None)
    assert report.data.lazyfree_bytes == live.lazyfree_bytes
    assert [m.start for m in report.data.mappings] == [m.start for m in live.mappings]
    assert tune_of(path).data.contention is None
    rewritten(path, lambda facts: (facts.pop("kernel"), facts.pop("ownership")))
    answered = footprint_of(path)
    [row] = answered.data.rows
    assert codes(answered) == ["not-recorded"]
    assert (row.rss_bytes, row.footprint_bytes, row.swap_bytes) == (live.rss_bytes, None, None)
    shown = map_of(path)
    assert codes(shown) == ["not-recorded"]
    assert "not-recorded" in {row.key for row in shown.data.rows}
    assert answer("map", str(path))["data"]["rss_bytes"] == live.rss_bytes
    assert lazyfree_of(path).data.lazyfree_bytes == live.lazyfree_bytes


def test_an_owner_of_lazily_freed_pages_is_recorded(tmp_path: Path) -> None:
    """The program gives parts of a large chunk back: the chunk is glibc's. How many pages are
    marked already may differ: the kernel does that in batches."""
    program = (
        "import ctypes, mmap\n"
        "libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\n"
        "at = libc.malloc(ctypes.c_size_t(16 << 20)); ctypes.memset(at, 1, 16 << 20)\n"
        "start = (at + 4095) // 4096 * 4096\n"
        "libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(8 << 20), 8)\n"
        "print('ready', flush=True); input()"
    )
    with targets.running([sys.executable, "-c", program]) as target:
        path = recorded(target.pid, tmp_path / "a.asrec")
        live, told = lazyfree(target.pid).data, lazyfree_of(path).data
    assert [(m.start, m.owner) for m in told.mappings] == [
        (m.start, m.owner) for m in live.mappings
    ]
    assert [owner.name for owner in told.owners] == ["glibc"]
    assert told.exact == live.exact


@pytest.mark.parametrize(
    "change",
    [
        lambda lazy: lazy["mappings"][0].update(start=1 << 40, end=1),
        lambda lazy: lazy["mappings"][0].update(owner=None),
        lambda lazy: lazy.update(exact=3),
        lambda lazy: lazy["mappings"][0].pop("lazyfree_bytes"),
    ],
)
def test_hostile_facts_are_bad_input(
    change: Callable[[dict[str, Any]], object], running: Running, tmp_path: Path
) -> None:
    path = recorded(running("lazyfree", scale=0.1).pid, tmp_path / "a.asrec")
    rewritten(path, lambda facts: change(facts["lazyfree"]))
    assert command("lazyfree", str(path)).returncode == 9


# ---- the command ----


def test_the_commands_take_recordings(running: Running, tmp_path: Path) -> None:
    target = running("scattered", scale=0.2)
    path = tmp_path / "a.asrec"
    record(target.pid, path, RecordOptions(every_s=0.01, for_s=0.01))
    for verb in ("map", "tune", "trim", "lazyfree", "footprint"):
        told = answer(verb, str(path))
        assert (told["process"]["pid"], told["method"]["source"]) == (target.pid, "recording")
        assert answer(verb, str(path), "--sample", "1")["captured_at"] < told["captured_at"]
        shown = command(verb, str(path))
        assert (shown.returncode, shown.stderr) == (0, "")
        assert max(map(len, shown.stdout.splitlines())) <= 100
        assert "as of 20" in shown.stdout
        assert "recording, " in shown.stdout
        assert_refused(command(verb, str(path), "--sample", "3"), 2, "no sample 3", "It has 2")
        assert_refused(command(verb, str(target.pid), "--sample", "1"), 2, "--sample", "")
        assert_refused(command(verb, "README.md"), 9, "neither a recording", "")
    assert "--apply does it" not in command("trim", str(path)).stdout


@pytest.mark.parametrize(
    "words",
    [
        ["trim", "FILE", "--apply"],
        ["trim", "FILE", "--rehearse"],
        ["trim", "FILE", "--apply", "--repeat", "1", "--if-free-above", "1M"],
        ["trim", "FILE", "--apply", "--watch-refaults", "1"],
        ["lazyfree", "FILE", "--reclaim"],
        ["footprint", "FILE", "--tree", "1"],
        ["footprint", "FILE", "--all"],
        ["footprint", "FILE", "--name", "x"],
        ["footprint", "FILE", "--cgroup", "/"],
    ],
)
def test_what_only_a_process_can_do(words: list[str]) -> None:
    file = "tests/samples/glibc-2.39.core.xz"
    done = command(*(file if word == "FILE" else word for word in words))
    assert_refused(done, 2, "is a file: --", "or give a pid")
    for option in words[2:]:
        assert not option.startswith("--") or option in done.stderr


def test_a_file_stands_by_itself() -> None:
    file = "tests/samples/glibc-2.39.core.xz"
    assert_refused(command("footprint", file, "1"), 2, "by itself", "one FILE")
    assert_refused(command("footprint", "--tree", file), 2, "is not a pid", "files are read by")
