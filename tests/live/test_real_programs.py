"""Real programs: every arena's sums are those of the oracle's walk over the same memory. The
program is stopped by SIGSTOP meanwhile, because some of them have threads that wake up by
themselves."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest
from live.programs import thread_states, wait_until
from oracle import locate, walk
from oracle.layout import layout_for
from oracle.memory import Memory

from allocscope.app.arenas import ArenasOptions, arenas

SUMS = (
    "live_bytes",
    "live_count",
    "tcache_bytes",
    "tcache_count",
    "fastbin_bytes",
    "fastbin_count",
    "bin_bytes",
    "bin_count",
    "top_bytes",
    "overhead_bytes",
    "system_bytes",
    "residue_bytes",
)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until("every thread stops", lambda: set(thread_states(pid)) == {"T"})
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("program", ["http_server_pid", "java_pid", "ruby_pid"])
def test_every_arena_is_what_a_slow_walk_finds(
    program: str, request: pytest.FixtureRequest
) -> None:
    pid = request.getfixturevalue(program)
    with stopped(pid):
        report = arenas(pid, ArenasOptions())
        with Memory(pid) as memory:
            layout = layout_for(locate.glibc_minor(pid))
            slow = walk.walk(memory, layout, *locate.from_bytes(memory, layout))
    fast = report.data.arenas
    assert [arena.address for arena in fast] == [sums.address for sums in slow]
    for arena, sums in zip(fast, slow, strict=True):
        found = {name: getattr(arena.figures, name) for name in SUMS}
        assert found == {name: getattr(sums, name) for name in SUMS}, f"arena {arena.index}"
    assert len(fast) > 2
    assert [sums.residue_bytes for sums in slow] == [0] * len(slow)
    assert report.method.consistency == "quiescent"
