"""A frozen copy of a process, and its heap read in there.

Where glibc itself is to run in the copy (to be asked, to trim) no list of free chunks may stand
half changed, for glibc could not follow it: then another snapshot is taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from allocscope.act.snapshot import Snapshot, frozen
from allocscope.app import heap
from allocscope.app.target import Target
from allocscope.errors import Unsafe
from allocscope.glibc.layouts import StateLayout
from allocscope.glibc.lists import closed
from allocscope.glibc.pieces import PLAIN_TRIM, Trim
from allocscope.glibc.protocols import Memory
from allocscope.glibc.states import ArenaState
from allocscope.immutable import immutable, replace
from allocscope.proc import procfs
from allocscope.proc.memory import ProcessMemory

MOST_SNAPSHOTS = 5


def torn(memory: Memory, arenas: Iterable[ArenaState], layout: StateLayout) -> bool:
    """Does one of these arenas of a frozen copy have a list that glibc could not follow? Only those
    in which an operation was under way need be asked about."""
    return not all(closed(memory, state, layout) for state in arenas)


def always_torn(pid: int) -> Unsafe:
    """The refusal after MOST_SNAPSHOTS snapshots."""
    return Unsafe(
        f"process {pid} was in the middle of changing a list of free chunks in each of "
        f"{MOST_SNAPSHOTS} snapshots, and glibc cannot follow such a list",
        "Try again; `allocscope arenas --snapshot` reads such a process without glibc's help.",
    )


def read_copy(
    snapshot: Snapshot,
    memory: ProcessMemory,
    target: Target,
    deadline_ns: int,
    trim: Trim = PLAIN_TRIM,
) -> heap.HeapAnswer:
    """Reads the heap of the frozen copy. What only the process itself has (threads, environment)
    comes from ``target``."""
    copied = replace(target, mappings=procfs.mappings(snapshot.pid))
    return heap.read(memory, copied, sort=heap.FROZEN, deadline_ns=deadline_ns, trim=trim)


@immutable
class Frozen:
    """A frozen copy that was read. ``pause_ns``: how long the process stood still for it and for
    those that were given up before it."""

    snapshot: Snapshot
    memory: ProcessMemory
    answer: heap.HeapAnswer
    pause_ns: int


def freeze(
    stack: contextlib.ExitStack,
    target: Target,
    *,
    for_glibc: bool,
    max_pause_ns: int,
    deadline_ns: int,
    trim: Trim = PLAIN_TRIM,
) -> Frozen:
    """A copy that lives as long as ``stack``; ``for_glibc``: one whose lists glibc can follow;
    ``trim``: which malloc_trim is to be foretold. Unsafe when none is to be had."""
    pid = target.process.pid
    pause_ns = 0
    for _ in range(MOST_SNAPSHOTS):
        with contextlib.ExitStack() as attempt:
            snapshot = attempt.enter_context(
                frozen(pid, max_pause_ns=max_pause_ns, deadline_ns=deadline_ns)
            )
            memory = attempt.enter_context(ProcessMemory(snapshot.pid))
            answer = read_copy(snapshot, memory, target, deadline_ns, trim)
            pause_ns += snapshot.pause_ns
            reading = answer.reading
            in_flight = (item.state for item in reading.arenas if item.problems)
            if not for_glibc or not torn(memory, in_flight, reading.layout.state):
                stack.push(attempt.pop_all())
                return Frozen(snapshot, memory, answer, pause_ns)
    raise always_torn(pid)
