"""The fixtures as a user reproduces them: what `arenas` reports is what each fixture says of
itself."""

from __future__ import annotations

import pytest

from allocscope.app.arenas import ArenasOptions, arenas
from allocscope.lab import fixture, repro
from allocscope.render.sentences import headline

EXACT = ("live_count", "live_bytes", "tcache_bytes", "free_bytes", "system_bytes", "residue_bytes")


@pytest.mark.parametrize("name", fixture.names())
def test_arenas_reports_the_truth(name: str, c_compiler: None) -> None:
    result = repro.reproduce(name, lambda pid: arenas(pid, ArenasOptions()), headline, seed=5)
    assert [row for row in result.rows if not row.ok] == []
    assert result.ok
    assert result.seed == 5
    assert result.headline.startswith("RSS ")
    compared = {row.figure for row in result.rows if row.relation == "equal"}
    assert name == "busy" or compared.issuperset(EXACT)
