"""The layout report of real processes: of a glibc that is known, and of one that is not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from live import targets
from live.cli import assert_refused, command, unharmed
from live.unknown import unknown
from oracle import locate
from oracle.layout import layout_for

from allocscope.lab.fixture import RunningFixture

AROUND, ARENA = 256, 127 * 16
SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "schema" / "doctor.schema.json"


@pytest.fixture
def target(running: Callable[..., RunningFixture]) -> RunningFixture:
    return running("scattered", scale=0.2)


def report(pid: int) -> Any:
    """The one library of the report."""
    with unharmed(pid):
        done = command("doctor", str(pid), "--layout", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(answer)
    [library] = answer["data"]["layout"]["libraries"]
    return library


def of_this_version(library: Any) -> Any:
    [row] = [row for row in library["rows"] if library["version"] in row["versions"]]
    return row


def test_the_row_of_this_glibc_fits(target: RunningFixture) -> None:
    pid = target.pid
    library = report(pid)
    row = of_this_version(library)
    assert [row["layout"] for row in library["rows"] if row["fits"]] == [row["layout"]]
    assert all(rule["held"] for rule in row["rules"])
    start = locate.libc_of(pid)[0].start
    truth = locate.from_debug_symbols(pid)
    if truth is not None:
        assert [int(row[name], 16) + start for name in ("main_arena", "mp")] == list(truth)
    for other in library["rows"]:
        assert other["fits"] or not all(rule["held"] for rule in other["rules"])


def test_of_one_that_is_not_known_the_report_says_what_fails_where(target: RunningFixture) -> None:
    with unknown(target.pid):
        library = report(target.pid)
    assert not any(row["fits"] for row in library["rows"])
    row = of_this_version(library)
    layout = layout_for(locate.glibc_minor(target.pid))
    last_bin = layout.bins + 126 * 16
    assert [rule for rule in row["rules"] if not rule["held"]] == [
        {"name": "bins", "held": False, "at": hex(last_bin), "found": "zero"}
    ]
    assert row["mp"] is not None
    there = {word["at"]: word for word in library["words"]}
    arena = int(row["main_arena"], 16)
    assert there[hex(arena + last_bin)]["kind"] == "zero"
    assert there[hex(arena + layout.top)]["target"] == "heap"


def test_no_address_is_told(target: RunningFixture) -> None:
    done = command("doctor", str(target.pid), "--layout")
    assert done.returncode == 0
    lines = Path(f"/proc/{target.pid}/maps").read_text().splitlines()
    spans = [tuple(int(end, 16) for end in line.split()[0].split("-")) for line in lines]
    told = [int(number, 16) for number in re.findall(r"0x([0-9a-f]+)", done.stdout)]
    assert len(told) > 50
    assert [number for number in told if any(low <= number < high for low, high in spans)] == []


def test_the_page_for_people(target: RunningFixture) -> None:
    done = command("doctor", str(target.pid), "--layout")
    assert "1 row of the layout table fits" in done.stdout
    assert re.search(r"\n  fits  C/|\n  fits  D/", done.stdout)
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_of_a_static_program_only_malloc_s_own_data_is_told(tmp_path: Path) -> None:
    program = targets.compile_c("grows.c", tmp_path / "grows", "-static")
    with targets.running([program]) as started:
        library = report(started.process.pid)
    assert library["static"]
    [row] = [row for row in library["rows"] if row["fits"]]
    told = [row[name] for row in library["rows"] for name in ("main_arena", "mp")]
    places = [int(place, 16) for place in told if place is not None]
    assert int(row["main_arena"], 16) in places
    for word in library["words"]:
        at = int(word["at"], 16)
        near = any(place - AROUND <= at < place + ARENA + 2 * AROUND for place in places)
        assert near or word["kind"] == "absent"


def test_it_needs_a_process() -> None:
    assert_refused(command("doctor", "--layout"), 2, "--layout is about the C library", "PID")
