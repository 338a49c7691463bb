"""PSI as kernels print it, and what `explain` says of it."""

from __future__ import annotations

import pytest
from unit.situations import arena, situation
from unit.test_render_explain import report

from allocscope.causes.explanation import explain
from allocscope.errors import BadInput
from allocscope.model.process import Pressure, Stalls
from allocscope.parse.pressure import parse
from allocscope.render.explain import explain as text
from allocscope.render.page import Look

SOME = b"some avg10=12.50 avg60=3.00 avg300=0.10 total=123456\n"
FULL = b"full avg10=6.25 avg60=1.00 avg300=0.00 total=4567\n"


def test_both_lines_are_shares_of_time() -> None:
    assert parse(SOME + FULL) == Stalls(0.125, 0.03, 0.0625, 0.01)


def test_old_kernels_print_only_the_first() -> None:
    assert parse(SOME) == Stalls(0.125, 0.03, None, None)


@pytest.mark.parametrize("data", [b"", FULL, b"some avg10=x", b"\xff"])
def test_what_is_no_pressure_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput):
        parse(data)


CALM = Stalls(0.001, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("pressure", "said"),
    [
        (None, ""),
        (Pressure(CALM, None, 0, 7), ""),
        (Pressure(parse(SOME), None, None, None), "on this machine waited for it 12 % of the last"),
        (Pressure(CALM, parse(SOME), None, None), "of its control group waited for it 12 %"),
        (Pressure(CALM, CALM, 2, None), "has killed 2 processes of its control group"),
    ],
)
def test_pressure_is_told_only_where_there_is_some(pressure: Pressure | None, said: str) -> None:
    data = explain(situation(arena(0, live=20), pressure=pressure))
    assert data.pressure == pressure
    shown = " ".join(text(report(data), Look(width=100)).split())
    assert ("Memory is short" in shown) == bool(said)
    assert said in shown
