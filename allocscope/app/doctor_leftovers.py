"""The part of ``doctor`` about what a killed run of allocscope left below a process: told, and with
``--clean`` taken away."""

from __future__ import annotations

import time

from allocscope.errors import AllocscopeError
from allocscope.model.checks import Check, Checkup, DoctorData
from allocscope.proc import procfs
from allocscope.render.text import plural

KEY = "leftovers"
_CLEAN_NS = 10_000_000_000
_HARMLESS = "each costs the process a process number, nothing else, and goes when the process ends"


def check(pid: int) -> Check:
    """What there is. Raises NoSuchProcess."""
    from allocscope.act import leftovers

    zombies, alive = leftovers.find(pid), leftovers.abandoned(pid)
    if zombies or alive:
        found = [plural(len(zombies), "dead copy", "dead copies")] if zombies else []
        found += [plural(len(alive), "living copy", "living copies")] if alive else []
        return Check(
            KEY,
            "degraded",
            f"{' and '.join(found)} of the process, left by an allocscope that was killed: "
            f"{_numbers([z.pid for z in zombies] + alive)}; {_HARMLESS}",
            f"allocscope doctor {pid} --clean",
        )
    busy = leftovers.at_work(pid)
    if busy:
        tracers = _numbers(sorted({tracer for _, tracer in busy}))
        return Check(KEY, "ok", f"none; a run is at work on the process now ({tracers})", "")
    return Check(KEY, "ok", "no killed run has left a copy of the process", "")


def clean(pid: int) -> Checkup:
    """Takes it away and tells what came of it.

    Raises NoSuchProcess, and NoGlibcHeap for a kernel thread."""
    from allocscope.act.clean import clean as take_away

    started = time.monotonic_ns()
    process = procfs.identify(pid)
    try:
        done = take_away(pid, started + _CLEAN_NS)
    except AllocscopeError as error:
        there = check(pid)
        found = Check(KEY, "degraded", f"{there.message}. Not cleaned: {error.message}", error.hint)
    else:
        gone = {*done.killed, *done.collected} - {*done.left}
        if done.left:
            found = Check(
                KEY,
                "degraded",
                f"{_numbers(done.left)}: the process could not be made to collect these dead "
                f"copies; {_HARMLESS}",
                "Try again when its threads are less busy.",
            )
        elif gone:
            pause = f", pausing it for {done.pause_ns / 1e6:.2f} ms"
            found = Check(
                KEY,
                "ok",
                f"{plural(len(gone), 'copy', 'copies')} of the process taken away: "
                f"{_numbers(sorted(gone))}{pause}",
                "",
            )
        else:
            found = check(pid)
    return Checkup(process, DoctorData((found,)), time.monotonic_ns() - started)


def _numbers(pids: list[int] | tuple[int, ...]) -> str:
    return ", ".join(map(str, pids))
