"""`pins` of recordings and cores: of a process that stands still what `pins` says of it alive,
field by field, as far as the file tells."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live import targets
from live.cli import ROOT, assert_refused, command
from live.core_files import gdbs_core, kernels_core
from live.programs import READY_SECONDS
from live.test_contract import answer

from allocscope.app.pins import pins
from allocscope.app.pins_file import pins_of_file
from allocscope.app.pins_search import PinsOptions
from allocscope.app.record import RecordOptions, record
from allocscope.immutable import replace
from allocscope.lab import fixture
from allocscope.lab.child import Child, child
from allocscope.lab.fixture import RunningFixture
from allocscope.model.pins import Pin, PinsData

Running = Callable[..., RunningFixture]
CORES = [gdbs_core, kernels_core]
STILL = [name for name in fixture.names() if name != "busy"]
SAMPLES = ROOT / "tests" / "samples"


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Child, Any]]:
    """A program whose last object is named, in a directory of its own for its core."""
    program = targets.compile_c("pinned.c", tmp_path / "pinned", "-pthread")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with child([str(program)]) as started:
        monkeypatch.undo()
        said = json.loads(started.line(READY_SECONDS))
        assert started.line(READY_SECONDS) == "ready"
        yield started, said


def of_file(path: Path, exe: Path | None = None) -> PinsData:
    return pins_of_file(path, PinsOptions(), sample=None, exe=exe).data


def recorded(pid: int, path: Path, *, with_contents: bool) -> Path:
    record(pid, path, RecordOptions(with_contents=with_contents))
    return path


def without(data: PinsData, *fields: str) -> PinsData:
    """The same without these of each pin, and without how much was searched for them."""
    unknown: dict[str, Any] = dict.fromkeys(fields)
    rest = tuple(replace(pin, **unknown) for pin in data.pins)
    return replace(data, pins=tuple(sorted(rest, key=lambda pin: pin.chunk)), scanned_bytes=None)


# ---- the same as alive ----


@pytest.mark.parametrize("name", STILL)
def test_a_recording_has_the_pins_of_its_process(
    name: str, running: Running, tmp_path: Path
) -> None:
    pid = running(name, seed=7, scale=0.5).pid
    alive = pins(pid, PinsOptions()).data
    data = ("kind", "referrer_count", "referrers")
    plain = of_file(recorded(pid, tmp_path / "plain.rec", with_contents=False))
    assert without(plain) == without(alive, *data)
    assert [pin.chunk for pin in plain.pins] == [pin.chunk for pin in alive.pins]
    assert plain.scanned_bytes is None
    full = of_file(recorded(pid, tmp_path / "full.rec", with_contents=True))
    assert without(full, "referrer_count", "referrers") == without(alive, *data[1:])
    for before, after in zip(alive.pins, full.pins, strict=True):
        assert before.referrers is not None and after.referrers is not None
        if before.held_by == "live":  # a parked chunk's list may lead through what is not held
            assert set(after.referrers) <= set(before.referrers)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", STILL)
def test_a_core_has_the_pins_of_its_process(
    name: str,
    core: Callable[[int, Path], Path],
    running: Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    pid = running(name, seed=7, scale=0.5).pid
    alive = pins(pid, PinsOptions()).data
    dead = of_file(core(pid, tmp_path))
    assert without(dead, "released_if_freed_bytes") == without(alive, "released_if_freed_bytes")
    below = [pin.free_bytes_below for pin in dead.pins]
    assert below == sorted(below, reverse=True)
    for before, after in zip(*(sorted(d.pins, key=chunk_of) for d in (alive, dead)), strict=True):
        told = after.released_if_freed_bytes
        assert told is None or told == before.released_if_freed_bytes == 0


def chunk_of(pin: Pin) -> int:
    return pin.chunk


# ---- what the chunk is, and who points at it ----


def assert_named(data: PinsData, said: Any) -> None:
    pin = data.pins[0]
    assert (pin.chunk, pin.free_bytes_below) == (said["order"] - 16, said["free_bytes"])
    assert pin.kind is not None
    assert (pin.kind.type, pin.kind.name) == ("vtable", "shop::Order")
    by_name = {referrer.where: referrer for referrer in pin.referrers or ()}
    assert by_name["pinned!last_order"].to_start
    node = by_name[f"heap chunk {said['node'] - 16:#x}"]
    assert not node.to_start
    assert node.address == said["node"] + 8
    assert "pinned!cache_head" in node.through


def test_a_recording_with_contents_names_the_object(
    pinned: tuple[Child, Any], tmp_path: Path
) -> None:
    target, said = pinned
    assert_named(of_file(recorded(target.pid, tmp_path / "a.rec", with_contents=True)), said)


@pytest.mark.parametrize("core", CORES)
def test_a_core_names_the_object(
    core: Callable[[int, Path], Path], pinned: tuple[Child, Any], tmp_path: Path
) -> None:
    target, said = pinned
    path = core(target.pid, tmp_path / "here")
    assert_named(of_file(path), said)


def test_symbols_of_another_build_name_nothing(pinned: tuple[Child, Any], tmp_path: Path) -> None:
    target, said = pinned
    path, program = gdbs_core(target.pid, tmp_path / "here"), tmp_path / "pinned"
    kept = program.rename(tmp_path / "kept")
    targets.compile_c("pinned.c", program, "-pthread", "-O2", "-g")
    [pin, *_] = of_file(path).pins
    assert pin.kind is not None
    assert pin.kind.name != "shop::Order"
    assert all("last_order" not in referrer.where for referrer in pin.referrers or ())
    assert "pinned" in [referrer.where for referrer in pin.referrers or ()]
    assert_named(of_file(path, exe=kept), said)


# ---- samples of other versions ----


@pytest.mark.parametrize("version", ["2.27", "2.39"])
def test_cores_of_glibcs_that_are_not_here(version: str) -> None:
    """The sample's main thread holds every other chunk of its last ones, so none is alone."""
    data = answer("pins", str(SAMPLES / f"glibc-{version}.core.xz"))["data"]
    assert data["size_classes"]
    assert data["scanned_bytes"] > 0
    for pin in data["pins"]:
        assert pin["kind"]["type"] in ("vtable", "string", "pointer-array", "zero", "unknown")
        assert pin["referrer_count"] >= len(pin["referrers"])


@pytest.mark.parametrize("version", ["2.31", "2.41", "2.44"])
@pytest.mark.parametrize("machine", ["x86-64", "i386"])
def test_recordings_of_glibcs_that_are_not_here(version: str, machine: str) -> None:
    done = answer("pins", str(SAMPLES / f"glibc-{version}-{machine}.rec"))
    assert all(pin["kind"] is pin["referrers"] is None for pin in done["data"]["pins"])
    assert "no-contents" in [caveat["code"] for caveat in done["caveats"]]


# ---- the command ----


def test_the_command_says_what_a_file_does_not_tell(running: Running, tmp_path: Path) -> None:
    target = running("pinned-top", seed=3)
    path = recorded(target.pid, tmp_path / "a.rec", with_contents=False)
    told = answer("pins", str(path))
    assert told["method"]["source"] == "recording"
    [pin] = told["data"]["pins"]
    assert (pin["kind"], pin["referrers"], pin["first_bytes"]) == (None, None, None)
    assert 0 <= (target.truth["free_bytes"] or 0) - pin["free_bytes_below"] <= 1 << 18
    core = gdbs_core(target.pid, tmp_path)
    shown = command("pins", str(core))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert max(map(len, shown.stdout.splitlines())) <= 100
    assert "free() of it alone would reach that memory" in shown.stdout
    assert "[core-release]" in shown.stdout
    [pin] = answer("pins", str(core), "--show-bytes")["data"]["pins"]
    assert pin["released_if_freed_bytes"] is None
    assert len(pin["first_bytes"]) == 128


def test_options_of_the_other_kind_are_refused(running: Running, tmp_path: Path) -> None:
    pid = running("big-mmaps", scale=0.1).pid
    path = str(recorded(pid, tmp_path / "a.rec", with_contents=False))
    core = str(gdbs_core(pid, tmp_path))
    exe = f"/proc/{os.getpid()}/exe"
    assert_refused(command("pins", path, "--exe", exe), 2, "it knows its program", "Leave")
    assert_refused(command("pins", core, "--sample", "1"), 2, "it has no samples", "Leave")
    assert_refused(command("pins", str(pid), "--sample", "1"), 2, "are for files", "Leave")
    assert_refused(command("pins", "README.md"), 9, "neither a recording", "A target is")
