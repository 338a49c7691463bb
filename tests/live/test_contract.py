"""The command on a real process: what it prints is valid by the published schemas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from allocscope.lab.fixture import RunningFixture

ROOT = Path(__file__).resolve().parents[2]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "allocscope", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )


def answer(*words: str) -> Any:
    """One object on stdout, nothing on stderr, valid by its schema."""
    shown = command(*words, "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.count("\n") == 1
    value = json.loads(shown.stdout)
    verb = value["schema"].removeprefix("allocscope/")
    schema = json.loads((ROOT / "docs" / "schema" / f"{verb}.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(value)
    return value


def test_every_verb_keeps_its_schema(running: Callable[..., RunningFixture]) -> None:
    pid = running("tcache-hoard", scale=0.2).pid
    arenas = answer("arenas", str(pid))
    assert arenas["process"]["pid"] == pid
    assert all(arena["residue_bytes"] == 0 for arena in arenas["data"]["arenas"])
    several = answer("arenas", "--name", "^tcache-hoard$")
    assert pid in [part["process"]["pid"] for part in several["data"]]
    explain = answer("explain", str(pid))
    assert answer(str(pid))["data"]["rss_bytes"] == explain["data"]["rss_bytes"]
    rows = sum(row["resident_bytes"] for row in explain["data"]["ledger"])
    assert rows + explain["data"]["drift_bytes"] == explain["data"]["rss_bytes"]
    for way in ((), ("--rehearse",), ("--apply", "--watch-refaults", "0.01")):
        trimmed = answer("trim", str(pid), *way)
        assert trimmed["data"]["error_bytes"] == (0 if way else None)
    check = answer("check", str(pid), "--max-arenas", "1000")
    assert check["data"]["exceeded_count"] == 0
    assert answer("tune", str(pid))["data"]["rss_bytes"] > 0
    doctor = answer("doctor", str(pid))
    assert doctor["process"]["pid"] == pid


@pytest.mark.parametrize("by", ["heap", "size", "thread"])
def test_every_cut_prints_a_table(by: str, running: Callable[..., RunningFixture]) -> None:
    pid = running("tcache-hoard", scale=0.2).pid
    shown = command("arenas", str(pid), "--by", by, "--rows", "3")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"pid {pid} tcache-hoard" in shown.stdout
    assert "\nall " in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 100
