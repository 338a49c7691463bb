"""`explain` for people: what is said at length, what in a line, and that it fits."""

from __future__ import annotations

import dataclasses
import re

import pytest
from rich.cells import cell_len
from unit import reports
from unit.situations import MIB, arena, holding, situation

from allocscope.causes.explanation import explain as explained
from allocscope.model.ledger import Explanation, OutsideRss
from allocscope.model.report import Caveat, Method, Report
from allocscope.render.bar import stacked
from allocscope.render.explain import explain
from allocscope.render.page import Look

DATA = explained(
    situation(
        arena(0, live=20, shared_pages=50, tcache=2),
        arena(1, live=3, top=1),
        holdings=(holding("file-private", 10, path="/usr/lib/libx.so.1"),),
        outside=(OutsideRss("page-tables", MIB, "VmPTE in /proc/PID/status"),),
    )
)


def report(data: Explanation = DATA, caveats: tuple[Caveat, ...] = ()) -> Report[Explanation]:
    made = reports.report()
    return Report(made.process, made.libc, made.allocator, made.method, data, caveats)


def shown(width: int = 100, data: Explanation = DATA, **look: bool) -> str:
    return explain(report(data), Look(width, **look))


@pytest.mark.parametrize("width", [80, 100, 140])
def test_it_fits_the_page(width: int) -> None:
    lines = shown(width).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert max(cell_len(line) for line in lines if line.startswith("[")) == width


def test_the_verdict_comes_first_and_every_row_has_its_letter() -> None:
    text = shown(140)
    assert text.startswith(DATA.verdict)
    for start in ("L  malloc, live ", "t  malloc, thread caches ", "s  malloc, free, page shared "):
        assert f"\n{start}" in text
    assert "malloc, fastbins" not in text  # nothing is there
    assert "the rows add up to RSS" in text
    assert "page-tables: 1.0 MiB, VmPTE" in text


def test_what_matters_is_told_at_length_and_the_rest_in_a_line() -> None:
    text = shown(140)
    assert (
        "\n1. Live chunks scattered over pages that are otherwise free: 50.0 MiB, 58 % of RSS\n"
        in text
    )
    assert "   > `allocscope pins 4711` names" in text
    assert "\n   - Free chunks parked in thread caches: 2.0 MiB, 2 % of RSS\n" in text
    assert "\n   - Memory of the kernel on behalf of the process: 1.0 MiB, outside RSS\n" in text
    assert "glibc.malloc.tcache_count=0" not in text


def test_commands_name_the_process_only_where_it_can_still_be_meant() -> None:
    recorded = dataclasses.replace(report(), method=Method("recording", 0, 0, "validated"))
    assert "`allocscope pins PID` names" in explain(recorded, Look(140))


@pytest.mark.parametrize("width", range(40, 140, 7))
def test_no_number_is_parted_from_its_unit(width: int) -> None:
    lines = shown(width).splitlines()
    parted = [line for line in lines if re.match(r" *(%|[KMGT]iB|ms)(\W|$)", line)]
    assert parted == []


def test_the_limit_of_a_container_is_shown_with_what_is_left() -> None:
    data = dataclasses.replace(DATA, memory_limit_bytes=512 * MIB, memory_headroom_bytes=100 * MIB)
    assert "cgroup limit 512.0 MiB, 100.0 MiB left" in shown(140, data)
    assert "cgroup" not in shown(140)


def test_drift_is_shown_with_its_sign() -> None:
    assert "drift -12.0 KiB" in shown(data=dataclasses.replace(DATA, drift_bytes=-12 << 10))


def test_bytes_are_exact_when_asked_for() -> None:
    assert f"RSS {86 * MIB} bytes" in shown(exact_bytes=True)


def test_hostile_names_do_not_reach_the_terminal() -> None:
    verdict = "\x1b[2Jserver has 5 bytes"
    text = shown(data=dataclasses.replace(DATA, verdict=verdict))
    assert "\x1b" not in text
    assert "\\x1b[2Jserver" in text


def test_caveats_are_told() -> None:
    caveat = Caveat("drift", "4096 bytes of RSS came or went", partial=True)
    assert "PARTIAL: 4096 bytes" in explain(report(caveats=(caveat,)), Look())


@pytest.mark.parametrize(
    ("parts", "bar"),
    [
        ([("L", 1), ("s", 1)], "[LLLLssss]"),
        ([("L", 7), ("s", 1), ("k", 0)], "[LLLLLLLs]"),
        ([("L", 1000), ("s", 1)], "[LLLLLLLL]"),
        ([], ""),
        ([("L", 0)], ""),
    ],
)
def test_a_bar_is_always_full(parts: list[tuple[str, int]], bar: str) -> None:
    assert stacked(parts, 10) == bar
