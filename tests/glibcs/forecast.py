"""``./dev forecast``: what allocscope foretells of a trim against what the trim then does, for
every fixture that comes to rest under every glibc of the archive; writes docs/trim-forecast.md.

Strategy: each fixture runs twice. The first run is looked at, rehearsed on, and then calls its own
malloc_trim under strace: the calls that strace saw and the fall of each arena's pages in pagemap
are the truth, with arenas as the oracle finds them. The second run is trimmed by ``trim --apply``.

Rules: nothing is tried twice; every figure is printed as it was measured. Exit status 1 when any
arena was wrong by more than a page, any call was foretold wrongly, or a version is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import functools
import os
import sys
import tempfile
from pathlib import Path

from oracle import trimmed

from allocscope.app.trim import TrimOptions, trim
from allocscope.app.trim_apply import apply
from allocscope.app.trim_rehearse import rehearse
from allocscope.errors import AllocscopeError
from allocscope.lab import fixture
from allocscope.model.trim import ArenaReleased
from glibcs import fetch, programs

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "trim-forecast.md"
PAGE = 4096
LONGEST_PAUSE_NS = 1_000_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """One fixture under one glibc. Errors are those of the worst arena, in bytes. ``calls``:
    foretold, and those that strace saw, each madvise and brk. ``estimated_ns``: from, to;
    ``cpu_ns``: what the thread that made the call used of a CPU."""

    name: str
    arena_count: int
    forecast_bytes: int
    fell_bytes: int
    error_bytes: int
    calls: tuple[tuple[int, int], tuple[int, int]]
    rehearsed_error_bytes: int
    applied_error_bytes: int
    estimated_ns: tuple[int, int]
    cpu_ns: int
    rehearsed_ns: int
    applied_ns: int
    pause_ns: int

    @property
    def good(self) -> bool:
        errors = self.error_bytes, self.rehearsed_error_bytes, self.applied_error_bytes
        return max(errors) <= PAGE and self.calls[0] == self.calls[1]


def compare(
    name: str, tree: fetch.Tree, program: Path, seed: int, scale: float = 1.0
) -> Comparison:
    """Runs one fixture twice and trims it."""
    run = functools.partial(
        fixture.run,
        name,
        seed,
        scale,
        program=program,
        command_prefix=programs.loader_of(tree),
    )
    with run() as target:
        forecast = trim(target.pid, TrimOptions()).data.forecast
        tried = rehearse(target.pid, TrimOptions(), max_pause_ns=LONGEST_PAUSE_NS).data.rehearsed
        really = trimmed.watch(target.pid, target.trim)
    with run() as target:
        before = cpu_times(target.pid)
        done = apply(target.pid, TrimOptions()).data.applied
        assert tried is not None and done is not None
        cpu_ns = cpu_times(target.pid)[done.tid] - before[done.tid]
    foretold = [row.bytes for row in forecast.per_arena]
    return Comparison(
        name=name,
        arena_count=len(foretold),
        forecast_bytes=forecast.bytes,
        fell_bytes=sum(really.fell_bytes),
        error_bytes=max(
            abs(ours - fell) for ours, fell in zip(foretold, really.fell_bytes, strict=True)
        ),
        calls=(
            (forecast.madvise_count, forecast.brk_count),
            (len(really.advised), really.lowered_count),
        ),
        rehearsed_error_bytes=worst(tried.per_arena),
        applied_error_bytes=worst(done.per_arena),
        estimated_ns=(forecast.estimated_ns, forecast.estimated_most_ns),
        cpu_ns=cpu_ns,
        rehearsed_ns=tried.duration_ns,
        applied_ns=done.duration_ns,
        pause_ns=done.pause_ns,
    )


def cpu_times(pid: int) -> dict[int, int]:
    """Nanoseconds on a CPU by thread, from schedstat (Documentation/scheduler/sched-stats.rst)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {int(task.name): int((task / "schedstat").read_text().split()[0]) for task in tasks}


def timed(it: Comparison) -> bool:
    least, most = it.estimated_ns
    return least <= it.cpu_ns <= most


def worst(rows: tuple[ArenaReleased, ...]) -> int:
    return max(abs(row.error_bytes) for row in rows)


def row(version: str, it: Comparison) -> str:
    """One line of the table."""
    (advised, lowered), (saw_advised, saw_lowered) = it.calls
    cells = [
        version,
        it.name,
        str(it.arena_count),
        f"{it.forecast_bytes}",
        f"{it.fell_bytes}",
        str(it.error_bytes),
        f"{advised} + {lowered}",
        f"{saw_advised} + {saw_lowered}",
        str(it.rehearsed_error_bytes),
        str(it.applied_error_bytes),
        " to ".join(f"{ns / 1e6:.2f}" for ns in it.estimated_ns),
        *(f"{ns / 1e6:.2f}" for ns in (it.cpu_ns, it.rehearsed_ns, it.applied_ns)),
        f"{it.pause_ns / 1e6:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


Results = tuple[list[str], list[Comparison], bool]


def of_tree(found: fetch.Tree | fetch.NotFetched, seed: int) -> Results:
    """The table's lines for one glibc, what they say, and whether all was there and as foretold."""
    if isinstance(found, fetch.NotFetched):
        print(f"{found.suite}: not tested: {found.reason}", flush=True)
        return [f"| ? | {found.suite}: not tested: {found.reason} |{' |' * 13}"], [], False
    print(f"glibc {found.package_version} ({found.suite})", flush=True)
    lines: list[str] = []
    compared: list[Comparison] = []
    with tempfile.TemporaryDirectory() as directory:
        for name in programs.RESTING_FIXTURES:
            program = programs.fixture_program(name, Path(directory))
            try:
                it = compare(name, found, program, seed)
            except AllocscopeError as error:
                lines.append(f"| {found.version} | {name}: {error.message} |{' |' * 13}")
            else:
                lines.append(row(found.version, it))
                compared.append(it)
            print(f"  {lines[-1]}", flush=True)
    return lines, compared, len(compared) == len(lines) and all(it.good for it in compared)


def summed_up(found: list[Comparison]) -> str:
    """What all lines come to, in a sentence."""
    errors = [max(it.error_bytes, it.rehearsed_error_bytes, it.applied_error_bytes) for it in found]
    calls = sum(it.calls[0] == it.calls[1] for it in found)
    long = [it for it in found if it.cpu_ns >= 1_000_000]
    return (
        f"{len(found)} trims foretold: {errors.count(0)} to the byte in every arena, the largest "
        f"error of an arena {max(errors, default=0)} bytes; the calls of {calls} foretold exactly. "
        f"{sum(map(timed, long))} of the {len(long)} that used a millisecond of a CPU or more used "
        "what was estimated."
    )


HEAD = """\
# The trim forecast against reality

Written by `./dev forecast` on {date}, on Linux {kernel}, {machine}, {cpus} CPUs; sizes in bytes,
times in ms.

Each line is a fixture at rest (`fixtures/`, seed {seed}) under Debian's package of that glibc.
*forecast*: `allocscope trim`. *fell*: by how much the present pages of the arenas fell in
`/proc/PID/pagemap` when the program called `malloc_trim(0)` itself. *error*: forecast against that
fall, in the arena where they differ most. *calls*: `madvise` + `brk`, foretold, and as strace saw
them. *rehearsed* and *applied*: `trim --rehearse`, and `trim --apply` on a second run, against the
forecast, again of the worst arena. *estimated*: the CPU time that the forecast says the call takes; *CPU*: what the thread that was
made to call it then used of one (schedstat), a few system calls around it included. *in the copy*
and *took*: how long it was in the rehearsal, and applied, waits for a CPU included. *pause*: how
long the thread that made the call was kept from its work beyond it. Times are those of one run; the
machine was shared, with a load average of {load:.1f} at the end.

**{summary}**

| glibc | fixture | arenas | forecast | fell | error | calls foretold | calls seen | rehearsed, error | applied, error | estimated | CPU | in the copy | took | pause |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""  # noqa: E501


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev forecast")
    parser.add_argument("--seed", type=int, default=1, help="what the fixtures build")
    options = parser.parse_args()
    results = [of_tree(found, options.seed) for found in fetch.trees()]
    summary = summed_up([it for _, found, _ in results for it in found])
    system = os.uname()
    head = HEAD.format(
        summary=summary,
        load=os.getloadavg()[0],
        date=datetime.date.today().isoformat(),
        kernel=system.release,
        machine=system.machine,
        cpus=os.cpu_count(),
        seed=options.seed,
    )
    TABLE.write_text(head + "".join(f"{line}\n" for lines, _, _ in results for line in lines))
    print(f"{summary}\nwritten: {TABLE.relative_to(ROOT)}")
    return 0 if all(whole for _, _, whole in results) else 1


if __name__ == "__main__":
    sys.exit(main())
