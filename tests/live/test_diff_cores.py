"""diff reads cores too: held against a program that tells what it did, and against recordings of
the same moments."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from live import targets
from live.cli import assert_refused, command
from live.core_files import gdbs_core

from allocscope.app.diff import DiffOptions, diff
from allocscope.app.record import RecordOptions, record
from allocscope.errors import WrongUsage
from allocscope.lab.child import Child

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "schema" / "diff.schema.json"


@pytest.fixture(scope="session")
def grows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return targets.compile_c("grows.c", tmp_path_factory.mktemp("grows") / "grows")


@pytest.fixture
def growing(grows: Path) -> Iterator[Child]:
    if shutil.which("gdb") is None:
        pytest.skip("gdb is not installed")
    with targets.running([grows]) as started:
        yield started


def tell(target: Child, order: str) -> int:
    """Gives an order and returns the bytes that changed hands."""
    target.send(order.encode() + b"\n")
    return int(target.line(targets.READY_SECONDS))


def moment(pid: int, directory: Path) -> tuple[Path, Path]:
    """A core and a recording of the same moment."""
    directory.mkdir()
    recorded = directory / "a.rec"
    record(pid, recorded, RecordOptions())
    return gdbs_core(pid, directory), recorded


def test_a_leak_and_retention_between_cores(growing: Child, tmp_path: Path) -> None:
    pid = growing.process.pid
    tell(growing, "l 1000")
    first = moment(pid, tmp_path / "1")
    added = tell(growing, "l 9000")
    second = moment(pid, tmp_path / "2")
    freed = tell(growing, "f 10000")
    third = moment(pid, tmp_path / "3")
    for before in first:
        for after in second:
            leak = diff(before, after, DiffOptions()).data
            assert (leak.growth, leak.same_process) == ("live", True)
            assert leak.live_bytes.change == added
            assert (leak.size_classes[0].min_bytes, leak.totals.live_count.change) == (1008, 9000)
    for before in second:
        for now in (*third, pid):
            kept = diff(before, now, DiffOptions()).data
            assert (kept.growth, kept.live_bytes.change) == ("retention", -freed)
            assert kept.free_resident_bytes.change == freed


def test_what_a_core_does_not_tell(growing: Child, tmp_path: Path) -> None:
    pid = growing.process.pid
    core, recorded = moment(pid, tmp_path / "1")
    tell(growing, "l 9000")
    found = diff(core, pid, DiffOptions())
    assert (found.data.rss_bytes, found.data.interval_s) == (None, None)
    assert found.data.totals.swapped_bytes is None
    assert found.data.before.captured_at_s is None
    assert "everything else" not in [row.group for row in found.data.mappings]
    assert any(c.message.startswith("before: A core does not tell") for c in found.caveats)
    assert diff(recorded, pid, DiffOptions()).data.rss_bytes is not None


def test_the_command(growing: Child, tmp_path: Path) -> None:
    pid = growing.process.pid
    core, _ = moment(pid, tmp_path / "1")
    tell(growing, "l 9000")
    done = command("diff", str(core), str(pid), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    answer: Any = json.loads(done.stdout)
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(answer)
    assert (answer["data"]["growth"], answer["data"]["rss_bytes"]) == ("live", None)
    back = command("diff", str(pid), str(core), "--json")
    answer = json.loads(back.stdout)
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(answer)
    shown = command("diff", str(core), str(pid))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("RSS unknown: live +8.7 MiB")
    assert f"before: core {core}" in shown.stdout or "before: core …" in shown.stdout
    assert "\nRSS " not in shown.stdout
    refused = command("diff", str(core), str(core), "--samples", "1", "1")
    assert_refused(refused, 2, "it has no samples", "--samples")


def test_samples_of_a_core(tmp_path: Path) -> None:
    core = tmp_path / "core"
    core.write_bytes(b"\x7fELF" + bytes(12) + b"\x04\0")
    with pytest.raises(WrongUsage, match="no samples"):
        diff(core, core, DiffOptions(1, None))
