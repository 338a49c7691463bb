"""Reclaim against a program that marks, rewrites and checks its pages all the time: not one wrong
byte.

    PYTHONPATH=tests python -m torture.lazyfree_race [CHECKS] [THREADS]

Reclaims one after the other for as long as the program takes for its checks (10 million), prints
the counts, and ends with 1 if a page held something that it must not. The truth is the program's
own (lazyfree_race.c): what it wrote last to each page, and whether it gave the page back since.
"""

from __future__ import annotations

import dataclasses
import json
import select
import subprocess
import sys
import tempfile
from pathlib import Path

from allocscope.app.reclaim import reclaim
from allocscope.errors import NoSuchProcess

SOURCE = Path(__file__).with_suffix(".c")
CHECKS, THREADS = 10_000_000, 2


@dataclasses.dataclass(frozen=True)
class Race:
    """What the program counted (``wrong`` must be 0), and what we took from it meanwhile."""

    checks: int
    wrong: int
    marked_pages: int
    rewritten_pages: int
    vanished_pages: int
    reclaims: int
    released_bytes: int
    swapped_bytes: int


def build(directory: Path) -> Path:
    """The program, compiled into ``directory``."""
    program = directory / SOURCE.stem
    flags = ["-std=gnu11", "-O2", "-pthread", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, str(SOURCE), "-o", str(program)], check=True)
    return program


def race(program: Path, checks: int, threads: int = THREADS) -> Race:
    """One run of the program, reclaimed from until it has made its checks."""
    reclaims = released = swapped = 0
    with subprocess.Popen(
        [str(program), str(checks), str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == b"ready\n"
        while not select.select([process.stdout], [], [], 0)[0]:
            try:
                done = reclaim(process.pid).data.reclaimed
            except NoSuchProcess:
                break  # it ended without a word: the next line tells
            assert done is not None
            reclaims += 1
            released += done.released_bytes
            swapped += done.swapped_bytes
        counts = json.loads(process.stdout.readline())
        process.stdin.close()
    return Race(**counts, reclaims=reclaims, released_bytes=released, swapped_bytes=swapped)


def main(arguments: list[str]) -> int:
    checks = int(arguments[0]) if arguments else CHECKS
    threads = int(arguments[1]) if len(arguments) > 1 else THREADS
    with tempfile.TemporaryDirectory() as directory:
        result = race(build(Path(directory)), checks, threads)
    print(json.dumps(dataclasses.asdict(result)))
    return 1 if result.wrong or not result.vanished_pages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
