"""``./dev torture [PART…]``: what allocscope may never do to a process, tried thousands of times.

Parts: storm-16, storm-1, calls (snapshots and trims of self-checking programs under each glibc);
steps (SIGKILL of our side at every request of ptrace); instants (SIGKILL at random); lazyfree
(reclaim against a program that frees and rewrites). Without one, all of them. Each row is printed,
and put into docs/torture.md, as soon as it is through; the first harm ends the run with an error.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from glibcs import fetch
from live.swap import swap

from torture import kills, lazyfree_race, storms, table

PARTS = (*storms.KINDS, "steps", "instants", "lazyfree")
INSTANTS = (("snapshot", 0.8), ("trim", 0.2))
MIB = 2048


def trees() -> list[fetch.Tree]:
    found = [fetch.tree(suite) for suite in storms.GLIBCS]
    for missing in found:
        if isinstance(missing, fetch.NotFetched):
            print(f"not run under the glibc of {missing.suite}: {missing.reason}", flush=True)
    return [tree for tree in found if isinstance(tree, fetch.Tree)]


def rows_of(part: str, options: argparse.Namespace) -> Iterator[Any]:
    if part in storms.KINDS:
        chosen = trees()
        share = len(storms.KINDS) * len(chosen)
        for tree in chosen:
            yield storms.torture(part, tree, -(-options.snapshots // share),
                                 -(-options.trims // share))  # fmt: skip
    elif part == "steps":
        tree = trees()[1]
        for kind, action, killed in kills.STEPS:
            yield kills.steps(kind, tree, action, killed, options.requests)
    elif part == "instants":
        for action, portion in INSTANTS:
            yield kills.instants(action, max(1, round(options.kills * portion)), MIB)
    else:
        yield from races(options.checks)


def races(checks: int) -> Iterator[lazyfree_race.Row]:
    """So many without swap, where the machine has none, and a tenth of it with swap."""
    with tempfile.TemporaryDirectory() as directory:
        program = lazyfree_race.build(Path(directory))
        swaps = Path("/proc/swaps").read_text().count("\n") > 1
        yield lazyfree_race.race(program, checks, swap=swaps)
        if swaps:
            return
        try:
            with swap():
                yield lazyfree_race.race(program, checks // 10, swap=True)
        except pytest.skip.Exception as reason:
            print(f"not run with swap: {reason}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="./dev torture", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--snapshots", type=int, default=10_000, help="in all (10000)")
    parser.add_argument("--trims", type=int, default=2_000, help="in all (2000)")
    parser.add_argument("--kills", type=int, default=1_000, help="at random instants (1000)")
    parser.add_argument("--checks", type=int, default=200_000_000, help="in lazyfree (200000000)")
    parser.add_argument("--requests", type=int, help="of each process in steps (all)")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    command = " ".join(["./dev torture", *sys.argv[1:]])
    for part in options.parts or PARTS:
        print(f"== {part}", flush=True)
        rows = []
        for row in rows_of(part, options):
            print(dataclasses.asdict(row), flush=True)
            rows.append(row)
            table.keep(part, command, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
