"""A thread that is stopped within a restartable sequence (rseq) is let go before anything is done
with it: the kernel has to abort the sequence, and would not notice that it must if the thread came
back to user code elsewhere first."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from live.targets import compile_c, running

from allocscope.act.snapshot import frozen

SNAPSHOTS = 60
ENOUGH_NS = 20_000_000_000


def test_a_sequence_is_aborted_or_never_disturbed(tmp_path: Path) -> None:
    """The target counts itself; that some of its sequences were aborted shows that stops came in
    the middle of them."""
    if tuple(map(int, os.confstr("CS_GNU_LIBC_VERSION").split()[1].split("."))) < (2, 35):
        pytest.skip("glibc 2.35 or newer is needed for rseq")
    program = compile_c("restarts.c", tmp_path / "restarts")
    with running([program]) as target:
        for _ in range(SNAPSHOTS):
            deadline_ns = time.monotonic_ns() + ENOUGH_NS
            with frozen(target.pid, max_pause_ns=ENOUGH_NS, deadline_ns=deadline_ns):
                pass
        target.send(b"\n")
        counts = json.loads(target.line(60))
    assert counts["wrong"] == 0
    assert counts["aborted"] > 0
    assert counts["done"] > 0
