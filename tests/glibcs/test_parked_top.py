"""What thread caches keep at the end of a heap, under each glibc of the archive: the forecast for
another tcache_count is what the same program does with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from live.pages import kernel_says

from allocscope.app.explain import ExplainOptions, explain, survey
from allocscope.lab.child import child
from glibcs import fetch, programs

TARGET = Path(__file__).resolve().parents[1] / "live" / "targets" / "parked.c"
LOW = 9
LARGER_SINCE = (2, 43)
"""The default of tcache_count grew, and a cache is made at the first free."""
MIB = 1 << 20


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    return programs.build([TARGET], tmp_path_factory.mktemp("parked") / "parked")


@pytest.fixture(params=fetch.SUITES)
def tree(request):
    found = fetch.tree(request.param)
    if isinstance(found, fetch.NotFetched):
        pytest.skip(f"the archive does not answer for {request.param}: {found.reason}")
    return found


def look(tree, program, words, tcache_count=None):
    """RSS, and the one heap end that caches keep, if there is one."""
    setting = {"GLIBC_TUNABLES": f"glibc.malloc.tcache_count={tcache_count}"}
    environment = {} if tcache_count is None else setting
    command = [*programs.loader_of(tree), str(program), str(LOW), *words]
    with child(command, environment) as target:
        assert target.line(60) == "ready"
        ends = survey(target.pid, ExplainOptions()).data.heap.parked_ends
        causes = explain(target.pid, ExplainOptions()).data.causes
        assert ("parked-top" in [cause.key for cause in causes]) == bool(ends)
        return kernel_says(target.pid, "Rss"), ends[0] if ends else None


@pytest.mark.parametrize("words", [(), ("thread",), ("early",)])
def test_the_forecast_is_what_another_count_gives(tree, program, words):
    """By default, so with 7 or 16; the cache itself lies high from 2.43 on, unless made early."""
    larger = tuple(map(int, tree.version.split("."))) >= LARGER_SINCE
    rss, end = look(tree, program, words)
    assert (end is not None) == larger
    if end is None:
        return
    assert end.tcache_struct_count == ("early" not in words)
    gains = {gain.tcache_count: gain.released_bytes for gain in end.gains}
    assert gains.keys() == {0, 7}
    assert gains[0] > 35 * MIB
    assert (gains[7] > 35 * MIB) == ("early" in words)
    for count, gain in gains.items():
        other, _ = look(tree, program, words, count)
        assert rss - other == pytest.approx(gain, abs=MIB)
