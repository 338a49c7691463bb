"""Whether a process still lives, and still runs the program that it ran: without a wait, and as a
file to wait for.

Rule: a program that calls execve keeps its number and its start time, even its path where it starts
itself again; but the kernel gives the new one another auxiliary vector, with other addresses.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator
from typing import Literal

from allocscope.errors import NoSuchProcess
from allocscope.immutable import immutable
from allocscope.model.process import AuxVector, Process
from allocscope.proc import procfs


@immutable
class Program:
    """A process, and the program that it runs."""

    process: Process
    vector: AuxVector


def program(pid: int) -> Program:
    """What ``pid`` runs now. NoSuchProcess, PermissionRefused, NoGlibcHeap (a kernel thread)."""
    return Program(procfs.identify(pid), procfs.auxv(pid))


def same(watched: Program, now: Program) -> bool:
    """Is it the same process, in the same program?"""
    process = watched.process
    return now.process.start_ticks == process.start_ticks and now.vector == watched.vector


def fate(watched: Program) -> Literal["lives", "ended", "exec"]:
    """What has become of it."""
    try:
        now = program(watched.process.pid)
    except NoSuchProcess:
        return "ended"
    if now.process.start_ticks != watched.process.start_ticks:
        return "ended"
    return "lives" if same(watched, now) else "exec"


@contextlib.contextmanager
def end_of(pid: int) -> Iterator[int | None]:
    """A descriptor that becomes readable when the process ends; None before Linux 5.3, and where
    it may not be had. NoSuchProcess is left to whoever reads the process."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def ended_within(descriptor: int | None, seconds: float) -> bool:
    """Waits so many seconds, or until the process of a descriptor of ``end_of`` ends: has it? A
    signal whose handler raises ends the wait, too."""
    poll = select.poll()
    if descriptor is not None:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))
