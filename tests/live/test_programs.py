"""The real programs that other tests look at: they run, have the threads they promise, and hold
malloc arenas."""

from __future__ import annotations

import pytest
from live.programs import THREADS, thread_states


@pytest.mark.parametrize("program", ["http_server_pid", "java_pid", "ruby_pid"])
def test_program_runs_with_its_threads(program: str, request: pytest.FixtureRequest) -> None:
    pid = request.getfixturevalue(program)
    assert len(thread_states(pid)) >= THREADS
