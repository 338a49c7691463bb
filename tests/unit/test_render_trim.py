"""render/trim: the headline of each kind of answer, the words around it, and golden pages.

After an intended change: ALLOCSCOPE_GOLDEN=write pytest tests/unit/test_render_trim.py, then read
the diff.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import trims
from trims import MIB
from unit.test_render_json import validate

from allocscope.model.failure import Failure
from allocscope.model.report import Report
from allocscope.model.trim import TrimData
from allocscope.render import trim as render
from allocscope.render.json import dumps, envelope, envelope_of_failure
from allocscope.render.page import Look

GOLDEN = Path(__file__).parent / "golden"
WHEN = 1_790_000_000.0

PAGES = {
    "trim": (trims.report(7 * MIB, 3 * MIB, 0), Look(width=100)),
    "trim-narrow": (trims.report(7 * MIB, 3 * MIB, 0, locked=2 * MIB), Look(width=60)),
    "trim-rehearsed": (trims.report(7 * MIB, 3 * MIB, rehearsed=True), Look(width=80)),
    "trim-applied": (trims.report(7 * MIB, 3 * MIB, applied_error=-8192), Look(width=100)),
    "trim-nothing": (trims.report(0, 0), Look(width=100, exact_bytes=True)),
}


@pytest.mark.parametrize("name", PAGES)
def test_golden_pages(name: str) -> None:
    report, look = PAGES[name]
    text = render.trim(report, look)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("ALLOCSCOPE_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()
    assert max(map(len, text.splitlines())) <= look.width


def headline(report: Report[TrimData], served_by: str = "glibc") -> str:
    return render.headline(report.data, served_by=served_by)


def test_headlines() -> None:
    assert headline(trims.report(7 * MIB)) == (
        "malloc_trim(0) would give back 7.0 MiB of RSS 27.0 MiB; 4.0 MiB are free and would stay."
    )
    assert headline(trims.report(0)) == (
        "malloc_trim(0) would give back nothing of RSS 20.0 MiB: 4.0 MiB are free, but must stay."
    )
    assert headline(trims.report(7 * MIB, rehearsed=True)) == (
        "In a copy of the process malloc_trim(0) gave back 7.0 MiB in 63 ms, to the byte what was "
        "forecast."
    )
    assert headline(trims.report(7 * MIB, applied_error=8192)) == (
        "malloc_trim(0) gave back 7.0 MiB in 28 ms; forecast 7.0 MiB, error +8.0 KiB."
    )


def test_where_nothing_is_free_it_is_said() -> None:
    data = dataclasses.replace(trims.report(0).data, free_resident_bytes=0)
    assert render.headline(data).endswith("glibc holds nothing that is free.")


def test_another_allocator_is_in_the_headline_and_cannot_steer_the_terminal() -> None:
    assert headline(trims.report(0), "jemalloc").endswith(
        "would give back nothing of RSS 20.0 MiB: here jemalloc serves malloc, not glibc."
    )
    assert "\x1b" not in headline(trims.report(0), "\x1b[2J")


def test_the_cost_names_calls_time_and_faults() -> None:
    first, second = render.cost(trims.report(7 * MIB, 3 * MIB).data)
    assert first.startswith("Cost: 300 madvise and 1 brk calls, 58130 free chunks looked at, 60265")
    assert "60265 merged; 9.3 ms to 48 ms of CPU time" in first
    assert "2 µs a call, 240 ns a page" in first
    assert second == ("If the program uses those pages again: at most 2560 faults, 5.2 ms in all.")


@pytest.mark.parametrize("name", PAGES)
def test_the_json_is_as_its_schema_says(name: str) -> None:
    report, _ = PAGES[name]
    answer = json.loads(dumps(envelope(report, "trim", WHEN)))
    validate(answer, "trim")
    assert answer["data"]["forecast"]["per_arena"][0]["address"] == "0x7f0000000030"


def test_a_look_without_an_answer_is_as_the_schema_says() -> None:
    failure = Failure(4711, "", "no thread was fit", "Try again.", 7)
    validate(json.loads(dumps(envelope_of_failure(failure, "trim", WHEN))), "trim")


def test_one_line_a_look() -> None:
    applied = render.line(WHEN, trims.report(7 * MIB, applied_error=0))
    assert applied[8:] == (
        "  gave back 7.0 MiB in 28 ms (error +0 bytes), RSS 27.0 MiB → 20.0 MiB, 812 faults since\n"
    )
    left = render.line(WHEN, trims.report(7 * MIB))
    assert left[8:] == "  left alone: 11.0 MiB free and resident, 7.0 MiB of it would go\n"
    refused = render.line(WHEN, Failure(4711, "", "no thread\x1b was fit", "", 7))
    assert refused[8:] == "  not trimmed: no thread\\x1b was fit\n"
