"""Snapshots and applied trims of programs that check themselves, one after the other.

Strategy: for each program and C library snapshots (every second one with the copy of the copy that
a debugger would get) and trims in turn, each by a thread drawn by lot from all that the product
holds for fit: so every kind of call is interrupted. After every few the target is examined.

Rules: a refusal is counted and is no success; what the target finds wrong ends the run with an
error. The lot is drawn with a fixed seed.
"""

from __future__ import annotations

import dataclasses
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glibcs.fetch import Tree

from allocscope.act import borrow, live_trim, trim_thread
from allocscope.act.snapshot import CopyPlan, frozen
from allocscope.app.target import find_malloc, look
from allocscope.errors import Unsafe
from allocscope.proc.memory import ProcessMemory
from torture.targets import build, running

KINDS: dict[str, tuple[str, ...]] = {"storm-16": ("storm", "16"), "storm-1": ("storm", "0"),
                                     "calls": ("calls",)}  # fmt: skip
"""The programs of targets/, with their arguments."""
GLIBCS = ("bullseye", "bookworm", "trixie", "experimental")
"""2.31, 2.36, 2.41 and the newest at hand: Debian's suites, as tests/glibcs fetches them."""

EXAMINED_EVERY = 20
DEADLINE_NS = 20_000_000_000
MAX_PAUSE_NS = 2_000_000_000
_PLAIN = CopyPlan((), None, None)


@dataclasses.dataclass
class Row:
    """What was done to one program under one C library, and what that found. Times in ns."""

    program: str
    glibc: str
    snapshots: int = 0
    snapshots_refused: int = 0
    trims: int = 0
    trims_refused: int = 0
    checks: int = 0
    interruptions: int = 0
    longest_snapshot_pause_ns: int = 0
    longest_trim_ns: int = 0
    seconds: float = 0.0
    refusals: dict[str, int] = dataclasses.field(default_factory=dict)


def torture(kind: str, tree: Tree, snapshots: int, trims: int) -> Row:
    """Until so many snapshots and trims were made of one program. Raises Harmed."""
    row = Row(kind, tree.version)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, _by_lot():
        program, arguments = KINDS[kind][0], KINDS[kind][1:]
        with running(tree, build(Path(directory), program), *arguments) as target:
            trim = _trimmer(target.pid)
            for number, todo in enumerate(_turns(snapshots, trims), 1):
                (_snapshot if todo == "snapshot" else trim)(target.pid, row)
                if number % EXAMINED_EVERY == 0:
                    target.examine()
            counts = target.examine()
            assert not target.zombies()
            row.checks, row.interruptions = counts["checks"], counts["interruptions"]
    row.seconds = round(time.monotonic() - begun, 1)
    return row


def _turns(snapshots: int, trims: int) -> list[str]:
    turns = ["snapshot"] * snapshots + ["trim"] * trims
    random.Random(1).shuffle(turns)
    return turns


def _snapshot(pid: int, row: Row) -> None:
    deadline_ns = time.monotonic_ns() + DEADLINE_NS
    try:
        with frozen(pid, max_pause_ns=MAX_PAUSE_NS, deadline_ns=deadline_ns) as snapshot:
            if row.snapshots % 2:
                with snapshot.disposable(_PLAIN):
                    pass
    except Unsafe as error:
        row.snapshots_refused += 1
        _note(row, error)
        return
    row.snapshots += 1
    row.longest_snapshot_pause_ns = max(row.longest_snapshot_pause_ns, snapshot.pause_ns)


def _trimmer(pid: int) -> Callable[[int, Row], None]:
    target = look(pid)
    with ProcessMemory(pid) as memory:
        located, image = find_malloc(memory, target)

    def trim(pid: int, row: Row) -> None:
        try:
            done = live_trim.trim(
                pid, image, located, deadline_ns=time.monotonic_ns() + DEADLINE_NS
            )
        except Unsafe as error:
            row.trims_refused += 1
            _note(row, error)
            return
        row.trims += 1
        row.longest_trim_ns = max(row.longest_trim_ns, done.duration_ns)

    return trim


def _note(row: Row, error: Unsafe) -> None:
    reason = error.message.partition(": ")[2] or error.message
    row.refusals[reason] = row.refusals.get(reason, 0) + 1


class _by_lot:
    """Meanwhile every thread that is fit has its chance, not only the least disturbing one."""

    def __enter__(self) -> None:
        self._kept: tuple[Any, Any] = borrow.choose, trim_thread.choose
        lot = random.Random(2)

        def any_to_copy(*arguments: Any) -> list[int]:
            found: list[int] = self._kept[0](*arguments)
            return lot.sample(found, len(found))

        def any_to_trim(*arguments: Any) -> tuple[list[Any], dict[int, str]]:
            found, reasons = self._kept[1](*arguments)
            return lot.sample(found, len(found)), reasons

        borrow.choose, trim_thread.choose = any_to_copy, any_to_trim

    def __exit__(self, *_: object) -> None:
        borrow.choose, trim_thread.choose = self._kept
