"""A glibc that no known layout fits: refused by itself, answered by glibc where that is wanted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from live.cli import assert_refused, command, unharmed
from live.unknown import unknown

from allocscope.lab.fixture import RunningFixture

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "schema" / "arenas.schema.json"


@pytest.fixture
def target(running: Callable[..., RunningFixture]) -> RunningFixture:
    return running("scattered", scale=0.3)


@pytest.mark.parametrize("options", [[], ["--snapshot"], ["--json"]])
def test_unasked_it_is_refused_and_told_how_to_ask(
    target: RunningFixture, options: list[str]
) -> None:
    with unknown(target.pid), unharmed(target.pid):
        done = command("arenas", str(target.pid), *options)
        cure = f"`allocscope arenas {target.pid} --ask-glibc`"
        assert_refused(done, 5, "none of the known malloc layouts fits", cure)


def asked(pid: int) -> Any:
    with unknown(pid), unharmed(pid):
        done = command("arenas", str(pid), "--ask-glibc", "--json")
    assert (done.returncode, done.stderr) == (6, "")
    answer = json.loads(done.stdout)
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator(schema).validate(answer)
    return answer


def test_glibc_alone_gives_the_table(target: RunningFixture) -> None:
    answer = asked(target.pid)
    data, truth = answer["data"], target.truth
    totals = data["totals"]
    free = totals["fastbin_bytes"] + totals["bin_bytes"] + totals["top_bytes"]
    assert (totals["system_bytes"], free) == (truth["system_bytes"], truth["free_bytes"])
    assert totals["in_use_bytes"] == truth["used_bytes"]
    assert totals["fastbin_bytes"] == truth["fastbin_bytes"]
    assert totals["fastbin_count"] == truth["fastbin_count"]
    assert data["mmapped"]["count"] == truth["mmapped_count"]
    assert [arena["index"] for arena in data["arenas"]] == list(range(len(data["arenas"])))
    assert answer["method"]["source"] == "snapshot"
    assert answer["method"]["pause_ns"] > 0
    assert answer["libc"]["layout"] is None
    assert "glibc-alone" in [c["code"] for c in answer["caveats"] if c["partial"]]


def test_what_glibc_does_not_tell_is_null(target: RunningFixture) -> None:
    data = asked(target.pid)["data"]
    for figures in (*data["arenas"], data["totals"]):
        for name in ("live_bytes", "resident_bytes", "tcache_bytes", "trimmable_bytes"):
            assert figures[name] is None
    assert (data["settings"], data["threads"], data["size_classes"]) == (None, None, None)
    assert data["glibc_says"]["agrees"] is None


def test_the_page_for_people(target: RunningFixture) -> None:
    with unknown(target.pid):
        done = command("arenas", str(target.pid), "--ask-glibc")
        several = command("arenas", str(target.pid), str(target.pid), "--ask-glibc")
    assert (done.returncode, done.stderr) == (6, "")
    assert "how much of that is resident is unknown" in " ".join(done.stdout.split())
    assert "0 main" in done.stdout
    assert "[glibc-alone]" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert several.returncode == 6
    rows = [line for line in several.stdout.splitlines() if line.startswith(f"{target.pid} ")]
    assert [row.split()[3:6] for row in rows] == [["?", "?", "?"]] * 2


def test_afterwards_it_is_read_as_before(target: RunningFixture) -> None:
    asked(target.pid)
    assert command("arenas", str(target.pid)).returncode == 0
