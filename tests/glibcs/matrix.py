"""``./dev matrix``: every glibc of the archive, many seeds, every fixture; writes
docs/support-matrix.md. ``./dev check`` prints the same table, of one seed, and writes nothing.

Strategy: the same comparison as the test of one seed, over seeds that vary the number of threads,
and over the fixtures, whose truth is told by themselves. A version that could not be fetched gets
its row too, with the reason. Exit status 1 when any reading differed or any version is missing;
with ``--print`` a missing one is only named, unless none could be had.

Rules: nothing is tried twice; a difference is printed as it is found and counted in the table.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from allocscope import observe
from allocscope.app.arenas import ArenasOptions
from allocscope.app.arenas_core import arenas_of_core
from allocscope.app.arenas_frozen import arenas_frozen
from allocscope.errors import AllocscopeError
from allocscope.lab import fixture
from allocscope.model.heap import ArenasData
from allocscope.model.report import Report
from glibcs import emulated, fetch, judge, layout_table, programs

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "support-matrix.md"
MACHINES = {"amd64": "x86-64", "i386": "i386", "arm64": "aarch64"}
MAX_PAUSE_NS = 1_000_000_000
EMULATED_SEEDS = 5
EMULATED_SCALE = "0.2"
WHOLE = ("arena-spread",)
"""Fixtures at their full scale also where they are emulated: smaller, some thread parks nothing,
and without thread pointers an empty tcache is not told from cleared memory."""

Judge = Callable[[Report[ArenasData], Mapping[str, Any]], list[str]]


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """One comparison: of what, the layout that validated, and what differed. ``agrees``: whether
    glibc itself said the same, None where it was not asked."""

    title: str
    layout: str | None
    differences: tuple[str, ...]
    agrees: bool | None = None


def stress_readings(tree: fetch.Tree, programs_built: Path, seeds: int) -> Iterator[Reading]:
    """The stress program with ``seeds`` seeds and 1 to 17 threads."""
    name = f"stress-{tree.machine}"
    sources = [programs.HERE / "stress.c"]
    program = programs.build(sources, programs_built / name, machine=tree.machine)
    for seed in range(1, seeds + 1):
        threads = 1 + seed * 5 % 17
        if tree.machine not in fetch.NATIVE:
            title = f"core of stress {seed} with {threads} threads"
            words = [str(seed), str(threads), "1500"]
            yield emulated_reading(title, tree, program, words, judge.stress_differences)
            continue
        with programs.running(tree, program, str(seed), str(threads), "20000") as ready:
            title = f"stress {seed} with {threads} threads"
            asked = tree.machine == "amd64"
            yield compared(title, ready["pid"], ready["truth"], judge.stress_differences, asked)


def emulated_reading(
    title: str, tree: fetch.Tree, program: Path, words: Sequence[str], judged: Judge
) -> Reading:
    """The core of a program, written by its emulator."""
    with (
        tempfile.TemporaryDirectory() as directory,
        emulated.core_of(tree, program, Path(directory), *words) as ended,
    ):
        report = arenas_of_core(ended.core, exe=None, deadline_s=120)
        differences = judged(report, ended.truth)
    return Reading(title, report.libc.layout if report.libc else None, tuple(differences))


def fixture_readings(tree: fetch.Tree, programs_built: Path) -> Iterator[Reading]:
    """Every fixture that comes to rest, once; small where it is emulated."""
    for name in programs.RESTING_FIXTURES:
        program = programs.fixture_program(name, programs_built, tree.machine)
        if tree.machine not in fetch.NATIVE:
            words = ["--scale", "1" if name in WHOLE else EMULATED_SCALE]
            title = f"core of {name}"
            yield emulated_reading(title, tree, program, words, judge.fixture_differences)
            continue
        with fixture.run(name, program=program, command_prefix=programs.loader_of(tree)) as target:
            asked = tree.machine == "amd64"
            yield compared(name, target.pid, target.truth, judge.fixture_differences, asked)


def compared(title: str, pid: int, truth: Mapping[str, Any], judged: Judge, asked: bool) -> Reading:
    """Reads a process once and holds the reading against its truth; and, where glibc is asked, a
    frozen copy against what malloc_info and malloc_stats say in that copy."""
    try:
        report = observe(pid)
        differences = judged(report, truth)
        agrees = None
        if asked:
            frozen = arenas_frozen(pid, ArenasOptions(), ask_glibc=True, max_pause_ns=MAX_PAUSE_NS)
            says = frozen.data.glibc_says
            agrees = says is not None and says.agrees
            differences += judged(frozen, truth)
            differences += [] if agrees else [f"glibc itself says something else: {says}"]
    except AllocscopeError as error:
        return Reading(title, None, (f"{type(error).__name__}: {error.message}",))
    layout = report.libc.layout if report.libc else None
    return Reading(title, layout, tuple(differences), agrees)


def exact(readings: Sequence[Reading]) -> str:
    """How many readings were exact, of how many."""
    return f"{sum(not reading.differences for reading in readings)} of {len(readings)}"


def told(readings: Iterator[Reading]) -> list[Reading]:
    """All readings; each that differs is printed at once."""
    kept = []
    for reading in readings:
        kept.append(reading)
        for line in reading.differences:
            print(f"    {reading.title}: {line}", flush=True)
    return kept


def row(found: fetch.Tree | fetch.NotFetched, built: Path, seeds: int) -> tuple[str, bool]:
    """The table's row for one suite, and whether everything in it was exact."""
    machine = MACHINES[found.machine]
    if isinstance(found, fetch.NotFetched):
        print(f"{found.suite}, {machine}: not tested: {found.reason}", flush=True)
        return f"| ? | {machine} | {found.suite} | | | not tested: {found.reason} | | |", False
    print(f"glibc {found.package_version} ({found.suite}, {machine})", flush=True)
    if found.machine not in fetch.NATIVE:
        seeds = min(seeds, EMULATED_SEEDS)
    stress = told(stress_readings(found, built, seeds))
    fixtures = told(fixture_readings(found, built))
    layouts = sorted({reading.layout or "none" for reading in stress + fixtures})
    print(f"  stress {exact(stress)} exact, fixtures {exact(fixtures)} exact", flush=True)
    cells = [found.version, machine, found.suite, f"`{found.package_version}`", " ".join(layouts)]
    asked = [reading.agrees for reading in stress + fixtures if reading.agrees is not None]
    cells += [exact(stress), exact(fixtures)]
    cells += [f"{sum(asked)} of {len(asked)}" if asked else "not asked"]
    return f"| {' | '.join(cells)} |", not any(r.differences for r in stress + fixtures)


HEAD = """\
# Support matrix

Written by `./dev matrix` on {date}, on Linux {kernel}, {machine}. Each glibc is Debian's own
package, started beside the system's. *Stress*: a program of 1 to 17 threads that allocates and
frees at random, then tells what it holds by its own arithmetic and what glibc's `mallinfo` counts;
*fixtures*: the programs of `fixtures/` that come to rest, built for that machine. A reading is
exact when every arena adds up with residue 0 and all figures are equal, to the byte. *glibc itself
agrees*: of all those, a frozen copy was read and exact as well, and what `malloc_info` and
`malloc_stats` said in that copy was the same in every figure (64-bit programs that run, alone, can
be asked).

x86-64 and i386 programs were run, and read while they ran. aarch64 programs were emulated, and the
cores that the emulator wrote were read here: **nothing has been read on an aarch64 machine**.

"""
TABLE_HEAD = """\
| glibc | machine | Debian suite | package | layout that validated | stress, exact \
| fixtures, exact | glibc itself agrees |
|---|---|---|---|---|---|---|---|
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev matrix")
    parser.add_argument("--seeds", type=int, default=50, help="stress runs for each glibc")
    parser.add_argument("--refresh", action="store_true", help="ask the archive for newer packages")
    parser.add_argument("--print", action="store_true", help="print the table, write no file")
    options = parser.parse_args()
    system = os.uname()
    head = HEAD.format(
        date=datetime.date.today().isoformat(), kernel=system.release, machine=system.machine
    )
    found = list(fetch.trees(options.refresh, fetch.LOADERS))
    with tempfile.TemporaryDirectory() as directory:
        rows = [row(tree, Path(directory), options.seeds) for tree in found]
    table = TABLE_HEAD + "".join(f"{line}\n" for line, _ in rows)
    if options.print:
        print(f"\n{table}")
        judged = [
            good
            for tree, (_, good) in zip(found, rows, strict=True)
            if isinstance(tree, fetch.Tree)
        ]
        return 0 if judged and all(judged) else 1
    TABLE.write_text(head + table + layout_table.text())
    print(f"written: {TABLE.relative_to(ROOT)}")
    return 0 if all(good for _, good in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
