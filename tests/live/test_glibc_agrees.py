"""Every fixture that comes to rest: what glibc says of a frozen copy is what allocscope read in it,
to the byte, and nothing happened between that and the passive reading."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from allocscope.app.arenas import ArenasOptions
from allocscope.app.arenas_frozen import arenas_frozen
from allocscope.lab.fixture import RunningFixture
from allocscope.lab.repro import list_fixtures

BUSY = "busy"  # never comes to rest: tests/live/test_busy.py
MAX_PAUSE_NS = 1_000_000_000


@pytest.mark.parametrize("name", [each.name for each in list_fixtures() if each.name != BUSY])
def test_glibc_agrees_on(name: str, running: Callable[..., RunningFixture]) -> None:
    process = running(name)
    report = arenas_frozen(process.pid, ArenasOptions(), ask_glibc=True, max_pause_ns=MAX_PAUSE_NS)
    says = report.data.glibc_says
    assert says is not None
    assert says.agrees, says.differences
    assert says.drift_bytes == 0
    assert says.locks_held == ()
    assert [
        arena.figures.residue_bytes for arena in report.data.arenas if arena.figures.residue_bytes
    ] == []
