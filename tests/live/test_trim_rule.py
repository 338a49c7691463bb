"""What a fixture really gives back in malloc_trim(0), arena by arena, is what the oracle
foretells and what `arenas` calls trimmable."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from oracle import locate, trim, walk
from oracle.layout import layout_for
from oracle.memory import Memory

from allocscope.app.arenas import ArenasOptions, arenas
from allocscope.lab import fixture
from allocscope.lab.fixture import RunningFixture

RESTING = [name for name in fixture.names() if name != "busy"]
GIVES_BACK = {"arena-spread", "fastbin-hoard", "parked-top", "pinned-top", "scattered"}


def oracle_arenas(pid: int) -> list[walk.Sums]:
    with Memory(pid) as memory:
        layout = layout_for(locate.glibc_minor(pid))
        return walk.walk(memory, layout, *locate.from_bytes(memory, layout))


@pytest.mark.parametrize("name", RESTING)
def test_trim_releases_what_was_foretold(name: str, running: Callable[..., RunningFixture]) -> None:
    target = running(name, seed=3)
    sums = oracle_arenas(target.pid)
    end = trim.heap_end(target.pid)
    going = [trim.ranges(one, one is sums[0], end) for one in sums]
    foretold = [trim.resident_bytes(target.pid, ranges) for ranges in going]
    reported = arenas(target.pid, ArenasOptions()).data
    before = [trim.resident_bytes(target.pid, trim.extent(one)) for one in sums]

    target.trim()

    after = [trim.resident_bytes(target.pid, trim.extent(one)) for one in sums]
    released = [b - a for b, a in zip(before, after, strict=True)]
    assert released == foretold
    assert released == [one.figures.trimmable_bytes for one in reported.arenas]
    assert (sum(released) > 8 << 20) == (name in GIVES_BACK)
