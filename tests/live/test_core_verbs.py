"""`map`, `tune` and `trim` of cores: what the process said alive, as far as a core tells.
`lazyfree` and `footprint` say that it does not."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live.cli import assert_refused, command
from live.core_files import gdbs_core, kernels_core
from live.programs import thread_states, wait_until
from live.test_contract import answer
from live.test_cores import SMALL
from live.test_recorded_verbs import what_goes

from allocscope.app.arenas_core import arenas_of_core
from allocscope.app.map import map_process
from allocscope.app.map_file import map_of_file
from allocscope.app.trim import TrimOptions, trim
from allocscope.app.trim_file import trim_of_file
from allocscope.app.tune import tune
from allocscope.app.tune_file import tune_of_file
from allocscope.lab.fixture import RunningFixture
from allocscope.model.mapview import MapData
from allocscope.model.report import Report
from allocscope.model.trim import TrimData
from allocscope.model.tune import TuneData

Running = Callable[..., RunningFixture]
DEADLINE_S = 60.0
SAMPLE = "tests/samples/glibc-2.39.core.xz"
KERNELS = ("[vvar]", "[vvar_vclock]", "[vsyscall]")
"""Mappings that only some cores list."""
FIGURES = ("resident_bytes", "private_dirty_bytes", "lazyfree_bytes", "swapped_bytes", "huge_bytes")
BY_STRUCTURE = ("glibc-main-heap", "glibc-thread-heap", "glibc-mmapped", "thread-stacks")


def map_of(path: Path) -> Report[MapData]:
    return map_of_file(path, raw=True, sample=None, exe=None, deadline_s=DEADLINE_S)


def trim_of(path: Path, pad_bytes: int = 0) -> Report[TrimData]:
    return trim_of_file(path, TrimOptions(pad_bytes), sample=None, exe=None)


def tune_of(path: Path) -> Report[TuneData]:
    return tune_of_file(path, sample=None, exe=None, deadline_s=DEADLINE_S)


def assert_maps(core: MapData, live: MapData) -> None:
    """The same memory, with the same owners as far as memory itself tells them, and its sizes. gdb
    calls memory readable that allows no access."""
    assert [getattr(core.totals, name) for name in FIGURES] == [None] * len(FIGURES)
    assert all(getattr(part, name) is None for part in core.parts for name in FIGURES)
    assert all(row.fill is None for row in core.rows)
    assert core.rss_bytes is None
    listed = {part.start for part in core.parts}
    told = [part for part in live.parts if part.path not in KERNELS or part.start in listed]
    assert core.totals.virtual_bytes == sum(part.virtual_bytes for part in told)
    for key in BY_STRUCTURE:
        assert [(p.start, p.end, p.owner) for p in core.parts if p.key == key] == [
            (p.start, p.end, p.owner) for p in told if p.key == key
        ]
    assert _of_files(core) == _of_files(live)
    guards = {part.start for part in live.parts if part.perms.startswith("---")}
    for key in ("program-data", "runtime-heap", "unexplained"):
        assert [(p.start, p.end) for p in core.parts if p.key == key and p.start not in guards] == [
            (p.start, p.end) for p in told if p.key == key and p.start not in guards
        ]


def _of_files(data: MapData) -> list[tuple[int, int, str]]:
    return [(p.start, p.end, p.owner) for p in data.parts if p.key.startswith("file-")]


def assert_tunes(core: TuneData, live: TuneData) -> None:
    assert (core.rss_bytes, core.contention, core.limit_rule) == (None, None, None)
    assert core.arenas == live.arenas
    assert core.trimmable_bytes == live.trimmable_bytes
    assert core.settings.trim_threshold_bytes.value == live.settings.trim_threshold_bytes.value
    assert core.settings.arena_max.value == live.settings.arena_max.value
    assert core.settings.cpus_online is None
    assert "arena_max" in {left.key for left in core.left_alone}
    alone = {one.key for one in live.suggestions}
    assert {one.key for one in core.suggestions} >= alone - {"arena_max"}


def assert_trims(core: TrimData, live: TrimData) -> None:
    assert core.rss_bytes is None
    here, there = what_goes(core), what_goes(live)
    assert here.forecast == there.forecast
    assert (core.resident_bytes, core.free_resident_bytes) == (
        live.resident_bytes,
        live.free_resident_bytes,
    )


@pytest.mark.parametrize("name", SMALL)
def test_a_core_tells_what_the_process_told(name: str, running: Running, tmp_path: Path) -> None:
    pid = running(name, scale=0.1, **SMALL[name]).pid
    path = gdbs_core(pid, tmp_path)
    mapped, tuned, trimmed = map_of(path), tune_of(path), trim_of(path)
    assert_maps(mapped.data, map_process(pid, raw=True, deadline_s=DEADLINE_S).data)
    assert_tunes(tuned.data, tune(pid, DEADLINE_S).data)
    assert_trims(trimmed.data, trim(pid, TrimOptions()).data)
    assert tuned.data.settings == arenas_of_core(path, exe=None, deadline_s=60).data.settings
    said = [[caveat.code for caveat in report.caveats] for report in (mapped, tuned, trimmed)]
    assert [code for code in said[2] if code != "core-at-most"] == [
        "core-residency",
        "core-mlocked",
        "pace-here",
    ]
    assert said[:2] == [["core-mappings"], ["core-residency"]]


def at_most(path: Path) -> int:
    said = {caveat.code: caveat.message for caveat in trim_of(path).caveats}
    told = re.search(r"(\d+) bytes would go", said.get("core-at-most", ""))
    return int(told[1]) if told else trim_of(path).data.forecast.bytes


@pytest.mark.parametrize("program", ["http_server_pid", "ruby_pid"])
def test_a_core_of_a_runtime(program: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Stopped meanwhile, because some of them have threads that wake up by themselves."""
    pid = request.getfixturevalue(program)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until("every thread stops", lambda: set(thread_states(pid)) == {"T"})
        live = map_process(pid, raw=True, deadline_s=DEADLINE_S).data
        tuned, trimmed = tune(pid, DEADLINE_S).data, trim(pid, TrimOptions()).data
        path = gdbs_core(pid, tmp_path)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert_maps(map_of(path).data, live)
    going, settings = trim_of(path).data.forecast, tune_of(path).data.settings
    assert going.bytes <= trimmed.forecast.bytes <= at_most(path)  # pages of zeros may be there
    assert going.madvise_count == trimmed.forecast.madvise_count
    assert settings.arena_count == tuned.settings.arena_count


@pytest.mark.parametrize("name", ["scattered", "pinned-top"])
def test_the_kernels_own_core(
    name: str, running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pid = running(name, scale=0.1, **SMALL[name]).pid
    mapped = map_process(pid, raw=True, deadline_s=DEADLINE_S).data
    tuned = tune(pid, DEADLINE_S).data
    trimmed = [trim(pid, TrimOptions(pad)).data for pad in (0, 50_000)]
    path = kernels_core(pid, tmp_path)
    assert_maps(map_of(path).data, mapped)
    assert_tunes(tune_of(path).data, tuned)
    for pad, live in zip((0, 50_000), trimmed, strict=True):
        assert_trims(trim_of(path, pad).data, live)


def test_the_commands(running: Running, tmp_path: Path) -> None:
    target = running("tcache-hoard", scale=0.1, threads=2)
    own = str(Path(f"/proc/{target.pid}/exe").resolve())
    path = str(gdbs_core(target.pid, tmp_path))
    for verb in ("map", "tune", "trim"):
        told = answer(verb, path)
        assert (told["process"]["pid"], told["method"]["source"]) == (target.pid, "core")
        assert told["data"]["rss_bytes"] is None
        for words in ((), ("--exe", own)):
            shown = command(verb, path, *words)
            assert (shown.returncode, shown.stderr) == (0, "")
            assert max(map(len, shown.stdout.splitlines())) <= 100
            assert "core, " in shown.stdout
        assert "[exe-differs]" in command(verb, path, "--exe", "/bin/true").stdout
        assert_refused(command(verb, path, "--sample", "1"), 2, "is a core", "Leave --sample")
        refused = command(verb, str(target.pid), "--exe", own)
        assert_refused(refused, 2, "is a running process", "Leave them out")
    assert "resident" not in command("map", path).stdout.split("note:")[0]
    assert "--apply does it" not in command("trim", path).stdout
    assert len(answer("map", path, "--raw")["data"]["parts"]) > 10


def test_a_core_of_another_machines_glibc() -> None:
    for verb in ("map", "tune", "trim"):
        told: Any = answer(verb, SAMPLE)
        assert told["libc"]["layout"] is not None
        assert told["data"]["rss_bytes"] is None


def test_what_a_core_does_not_tell() -> None:
    done = command("lazyfree", SAMPLE)
    assert_refused(done, 9, "does not tell what was lazily freed", "record PID --exact")
    assert_refused(command("footprint", SAMPLE), 9, "does not tell RSS", "map FILE")
    assert_refused(command("footprint", SAMPLE, "--retained"), 9, "does not tell RSS", "map FILE")
