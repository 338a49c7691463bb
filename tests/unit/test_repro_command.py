"""``repro`` as a command: what it prints, and how it ends. The fixtures themselves are run in
tests/live."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import reports
from test_render_json import validate

from allocscope.cli.group import run
from allocscope.errors import WrongUsage
from allocscope.lab import repro
from allocscope.model.repro import FixtureInfo, ReproResult, ReproRow
from allocscope.render.page import Look
from allocscope.render.repro import fixtures, results

FIXTURES = (
    FixtureInfo("healthy", "a program that uses what it has."),
    FixtureInfo("scattered", "every thread frees nine in ten chunks at random."),
)


def result(name: str, seed: int) -> ReproResult:
    """``scattered`` comes out wrong in one figure and unknown in another."""
    right = name != "scattered"
    rows = (
        ReproRow("live_bytes", "equal", 4096, 4096 if right else 4112, right),
        ReproRow("rss_bytes", "at-least", 4096, 8192 if right else None, right),
        ReproRow("pinned_bytes", "at-most", 4096, 0, True),
    )
    return ReproResult(name, seed, f"RSS of {name}.", rows, reports.report())


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    def reproduce(name: str, look: Callable[..., Any], headline: Any, seed: int) -> ReproResult:
        if name not in {fixture.name for fixture in FIXTURES}:
            raise WrongUsage(f"there is no fixture called {name!r}", "There are others.")
        return result(name, seed)

    monkeypatch.setattr(repro, "list_fixtures", lambda: FIXTURES)
    monkeypatch.setattr(repro, "reproduce", reproduce)


def test_the_list() -> None:
    assert fixtures(FIXTURES, Look(width=40)) == (
        "healthy    a program that uses what it\n"
        "           has.\n"
        "scattered  every thread frees nine in\n"
        "           ten chunks at random.\n"
    )


def test_the_comparison() -> None:
    page = results([result("healthy", 3), result("scattered", 3)], Look(width=80))
    assert page == (
        "healthy, seed 3\n"
        "RSS of healthy.\n"
        "figure        allocscope     truth\n"
        f"{'─' * 37}\n"
        "live_bytes          4096  =   4096\n"
        "rss_bytes           8192  ≥   4096\n"
        "pinned_bytes           0  ≤   4096\n"
        "\n"
        "scattered, seed 3\n"
        "RSS of scattered.\n"
        "figure        allocscope     truth\n"
        f"{'─' * 41}\n"
        "live_bytes          4112  =   4096  WRONG\n"
        "rss_bytes              ?  ≥   4096  WRONG\n"
        "pinned_bytes           0  ≤   4096\n"
        "\n"
        "2 figures of 6 wrong: scattered: live_bytes, scattered: rss_bytes.\n"
    )


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], 0),
        (["healthy"], 0),
        (["healthy", "--check"], 0),
        (["scattered"], 0),
        (["scattered", "--check"], 1),
        (["--all", "--check"], 1),
        (["--check"], 2),
        (["healthy", "--all"], 2),
        (["nosuch"], 2),
    ],
)
def test_exit_status(words: list[str], code: int) -> None:
    assert run(["repro", *words]) == code


def test_json_holds_every_run_and_what_arenas_would_have_said(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    assert run(["repro", "--all", "--seed", "5", "--json"]) == 0
    answer = json.loads(capfdbinary.readouterr().out)
    validate(answer, "repro")
    runs = answer["data"]["results"]
    assert [(one["fixture"], one["seed"], one["ok"]) for one in runs] == [
        ("healthy", 5, True),
        ("scattered", 5, False),
    ]
    validate(runs[0]["answer"], "arenas")
    assert answer["data"]["fixtures"][0]["name"] == "healthy"
