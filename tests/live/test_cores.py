"""A core of a process says what the process itself said just before."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from live.cli import ROOT, assert_refused, command
from live.core_files import gdbs_core, kernels_core

from allocscope import observe
from allocscope.app.arenas_core import arenas_of_core
from allocscope.errors import NoGlibcHeap
from allocscope.lab.fixture import RunningFixture
from allocscope.model.heap import Figures

UNKNOWN = {"private_dirty_bytes", "lazyfree_bytes", "swapped_bytes", "huge_bytes"}
SMALL: dict[str, dict[str, Any]] = {
    "arena-spread": {"threads": 3},
    "big-mmaps": {},
    "dense": {},
    "fastbin-hoard": {"threads": 2},
    "healthy": {"threads": 2},
    "lazyfree": {},
    "pinned-top": {},
    "scattered": {"threads": 3},
    "tcache-hoard": {"threads": 3},
}


def known(figures: Figures) -> dict[str, Any]:
    return {name: value for name, value in _fields(figures).items() if name not in UNKNOWN}


def _fields(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


@pytest.mark.parametrize("name", SMALL)
def test_every_figure_is_that_of_the_process(
    name: str, running: Callable[..., RunningFixture], tmp_path: Path
) -> None:
    target = running(name, scale=0.1, **SMALL[name])
    live = observe(target.pid)
    core = arenas_of_core(gdbs_core(target.pid, tmp_path), exe=None, deadline_s=60)
    assert [(a.index, a.address, a.attached_threads) for a in core.data.arenas] == [
        (a.index, a.address, a.attached_threads) for a in live.data.arenas
    ]
    for ours, theirs in zip(core.data.arenas, live.data.arenas, strict=True):
        assert known(ours.figures) == known(theirs.figures)
        assert [(h.start, h.end, h.resident_bytes) for h in ours.heaps] == [
            (h.start, h.end, h.resident_bytes) for h in theirs.heaps
        ]
    assert core.data.mmapped == live.data.mmapped
    assert core.data.size_classes == live.data.size_classes
    caches = [
        {(t.tid, t.arena_index, t.tcache_address, t.tcache_bytes) for t in report.data.threads}
        for report in (core, live)
    ]
    assert caches[0] == caches[1]
    assert core.libc == live.libc  # the library's file is here, and has the core's build-id
    assert (core.process.pid, core.process.comm) == (live.process.pid, live.process.comm)
    assert core.process.exe == live.process.exe
    assert [caveat.code for caveat in core.caveats] == ["core-residency"]


def test_the_command(running: Callable[..., RunningFixture], tmp_path: Path) -> None:
    path = gdbs_core(running("tcache-hoard", scale=0.1, threads=2).pid, tmp_path)
    shown = command("arenas", str(path), "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    answer = json.loads(shown.stdout)
    schema = json.loads((ROOT / "docs" / "schema" / "arenas.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(answer)
    assert answer["method"]["source"] == "core"
    assert answer["data"]["rss_bytes"] is None
    for by in ("heap", "size", "thread"):
        shown = command("arenas", str(path), "--by", by)
        assert (shown.returncode, shown.stderr) == (0, "")
        assert "core, " in shown.stdout
        assert "never stopped" not in shown.stdout


def test_another_program_than_the_cores(
    running: Callable[..., RunningFixture], tmp_path: Path
) -> None:
    target = running("big-mmaps", scale=0.1)
    own = Path(f"/proc/{target.pid}/exe").resolve()
    path = gdbs_core(target.pid, tmp_path)
    right = arenas_of_core(path, exe=own, deadline_s=60)
    wrong = arenas_of_core(path, exe=Path("/bin/true"), deadline_s=60)
    assert [c.code for c in right.caveats] == ["core-residency"]
    assert [c.code for c in wrong.caveats] == ["exe-differs", "core-residency"]
    assert wrong.data == right.data


def test_several_targets_one_of_them_a_file_that_is_no_core(
    running: Callable[..., RunningFixture], tmp_path: Path
) -> None:
    pid = running("big-mmaps", scale=0.1).pid
    shown = command("arenas", str(gdbs_core(pid, tmp_path)), str(pid), "README.md", "--json")
    assert shown.returncode == 9
    parts = json.loads(shown.stdout)["data"]
    assert [part["process"]["pid"] for part in parts] == [pid, pid, None]
    assert parts[2]["process"]["comm"] == "README.md"
    assert parts[2]["error"]["exit_code"] == 9
    shown = command("arenas", str(pid), "README.md")
    assert "README.md: README.md is neither a recording" in shown.stdout


def test_what_only_a_process_can_do() -> None:
    core = "tests/samples/glibc-2.39.core.xz"
    for option in ("--snapshot", "--ask-glibc", "--exact"):
        assert_refused(command("arenas", core, option), 2, "is a file", "")
    refused = command("arenas", core, core, "--exe", "/bin/true")
    assert_refused(refused, 2, "one core file", "")
    assert_refused(command("ask", core), 2, "is not a pid", "files are read by")


@pytest.mark.parametrize("name", ["scattered", "lazyfree"])
@pytest.mark.parametrize("coredump_filter", ["0x33", "0x7f"])
def test_the_kernels_own_core(
    name: str,
    coredump_filter: str,
    running: Callable[..., RunningFixture],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    target = running(name, scale=0.1, **SMALL[name])
    Path(f"/proc/{target.pid}/coredump_filter").write_text(coredump_filter)
    live = observe(target.pid)
    core = arenas_of_core(kernels_core(target.pid, tmp_path), exe=None, deadline_s=60)
    for ours, theirs in zip(core.data.arenas, live.data.arenas, strict=True):
        assert known(ours.figures) == known(theirs.figures)
    assert core.data.mmapped == live.data.mmapped
    assert core.libc == live.libc
    assert not core.partial


def test_a_core_without_private_memory_says_so(
    running: Callable[..., RunningFixture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = running("lazyfree", scale=0.1)
    Path(f"/proc/{target.pid}/coredump_filter").write_text("0x10")
    with pytest.raises(NoGlibcHeap, match=r"does not hold the data of .*libc") as caught:
        arenas_of_core(kernels_core(target.pid, tmp_path), exe=None, deadline_s=60)
    assert "coredump_filter" in caught.value.hint
