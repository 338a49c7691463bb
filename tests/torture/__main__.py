"""``./dev torture [PART…] [--snapshots N] [--trims N] [--kills N]``: the long form, printed as it
goes, into docs/torture.md at the end of each part.

Parts: storm-16, storm-1, calls (snapshots and trims under each glibc), steps, random (SIGKILL);
without one, all of them. Exit status 1 as soon as a target was harmed.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from glibcs import fetch
from torture import storms, table

KILL_PARTS: tuple[str, ...] = ()


def trees() -> list[fetch.Tree]:
    found = [fetch.tree(suite) for suite in storms.GLIBCS]
    for missing in found:
        if isinstance(missing, fetch.NotFetched):
            print(f"not run under the glibc of {missing.suite}: {missing.reason}", flush=True)
    return [tree for tree in found if isinstance(tree, fetch.Tree)]


def run_storms(part: str, snapshots: int, trims: int) -> list[Any]:
    """An even share of the counts for this program under each C library."""
    rows = []
    chosen = trees()
    share = len(storms.KINDS) * len(chosen)
    for tree in chosen:
        rows.append(storms.torture(part, tree, -(-snapshots // share), -(-trims // share)))
        print(dataclasses.asdict(rows[-1]), flush=True)
    return rows


def main() -> int:
    parts = (*storms.KINDS, *KILL_PARTS)
    parser = argparse.ArgumentParser(prog="./dev torture", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--snapshots", type=int, default=10_000)
    parser.add_argument("--trims", type=int, default=2_000)
    parser.add_argument("--kills", type=int, default=1_000)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    command = " ".join(["./dev torture", *sys.argv[1:]])
    for part in options.parts or parts:
        print(f"== {part}", flush=True)
        rows = run_storms(part, options.snapshots, options.trims)
        table.keep(part, command, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
