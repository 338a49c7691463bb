"""The short form of ``./dev torture``: every part of it, a few times."""

from __future__ import annotations

import pytest
from glibcs import fetch

from torture import kills, storms, table

SNAPSHOTS, TRIMS, REQUESTS, KILLS, MIB = 12, 6, 5, 12, 256


def tree(suite: str) -> fetch.Tree:
    found = fetch.tree(suite)
    if isinstance(found, fetch.NotFetched):
        pytest.skip(f"the archive does not answer for {found.suite}: {found.reason}")
    return found


@pytest.mark.parametrize("suite", storms.GLIBCS)
@pytest.mark.parametrize("kind", storms.KINDS)
def test_snapshots_and_trims(kind: str, suite: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Raises Harmed where the target finds anything wrong."""
    row = storms.torture(kind, tree(suite), SNAPSHOTS, TRIMS)
    with capsys.disabled():
        print(f"\n{row.program}, glibc {row.glibc}: {row.snapshots} snapshots, {row.trims} trims,"
              f" {row.checks} checks, {row.interruptions} EINTR", end="")  # fmt: skip
    assert row.snapshots + row.snapshots_refused == SNAPSHOTS
    assert row.trims + row.trims_refused == TRIMS
    assert row.trims and row.snapshots and row.checks


@pytest.mark.parametrize(("kind", "action", "killed"), kills.STEPS)
def test_killed_at_requests(kind: str, action: str, killed: str) -> None:
    """A request that was made and killed nobody fails in there; the first is always made."""
    row = kills.steps(kind, tree("bookworm"), action, killed, limit=REQUESTS)
    assert row.runs == REQUESTS
    assert row.killed >= 1


@pytest.mark.parametrize("action", ["snapshot", "trim"])
def test_killed_at_random_instants(action: str) -> None:
    row = kills.instants(action, KILLS, MIB)
    assert row.killed == KILLS


def test_the_page_names_what_was_not_run() -> None:
    storm = storms.Row("storm-1", "2.36", snapshots=3, trims=2, checks=12345)
    part = {"date": "2026-01-02", "command": "./dev torture storm-1", "machine": "a machine"}
    page = table.page({"storm-1": part | {"rows": [vars(storm)]}})
    assert "| storm-1 | 2.36 | 3 | 2 | 0 | 12,345 | 0 | 0.0 | 0.0 | 0.0 |" in page
    assert "`storm-1`: 2026-01-02, `./dev torture storm-1`, a machine." in page
    assert "`steps`: not run yet." in page
