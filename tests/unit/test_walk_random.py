"""The walk in C against the plain one in Python, over random rows of chunks."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from unit import rows
from unit.heaps import expected, figures

SLOW_TO_MAKE = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=SLOW_TO_MAKE)
@given(rows.sound())
def test_sound_rows(made: rows.Made) -> None:
    with made.image.memory() as memory:
        tally = memory.walk(made.region)
        with memory.keeping([(made.region.first, made.region.limit)], made.region.top):
            assert memory.walk(made.region) == tally
    found = figures(tally)
    ends = {name: found[name] for name in ("stop_reason", "stopped_at")}
    assert found == expected(made.row.chunks, made.image, made.region, **ends)
    assert found == made.walked_plainly()


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=SLOW_TO_MAKE)
@given(rows.damaged())
def test_damaged_rows(made: rows.Made) -> None:
    with made.image.memory() as memory:
        tally = memory.walk(made.region)
        with memory.keeping([(made.region.first, made.region.limit)], made.region.top):
            assert memory.walk(made.region) == tally
    assert figures(tally) == made.walked_plainly()
