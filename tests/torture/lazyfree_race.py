"""Reclaim against a program that marks, rewrites and checks its pages all the time: not one wrong
byte.

Strategy: reclaims one after the other for as long as the program takes for its checks. The truth is
the program's own (lazyfree_race.c): what it wrote last to each page, and whether it gave the page
back since; it does not end before a page has gone. Rule: a byte that must not be there raises
Harmed, and so does a program that is not done in time.
"""

from __future__ import annotations

import dataclasses
import json
import select
import subprocess
import time
from pathlib import Path

from allocscope.app.reclaim import reclaim
from allocscope.errors import NoSuchProcess
from torture.targets import Harmed

SOURCE = Path(__file__).with_suffix(".c")
THREADS = 2
PATIENCE_S = 600


@dataclasses.dataclass(frozen=True)
class Row:
    """What the program counted (``wrong`` is 0), and what we took from it meanwhile. ``swap``: was
    there any?"""

    swap: bool
    checks: int
    wrong: int
    marked_pages: int
    rewritten_pages: int
    vanished_pages: int
    reclaims: int
    released_bytes: int
    swapped_bytes: int
    seconds: float


def build(directory: Path) -> Path:
    """The program, compiled into ``directory``."""
    program = directory / SOURCE.stem
    flags = ["-std=gnu11", "-O2", "-pthread", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, str(SOURCE), "-o", str(program)], check=True)
    return program


def race(program: Path, checks: int, *, swap: bool) -> Row:
    """One run of the program, reclaimed from until it has made its checks. Raises Harmed."""
    begun = time.monotonic()
    reclaims = released = swapped = 0
    with subprocess.Popen(
        [str(program), str(checks), str(THREADS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        assert process.stdout.readline() == b"ready\n"
        while not select.select([process.stdout], [], [], 0)[0]:
            if time.monotonic() - begun > PATIENCE_S:
                process.kill()
                raise Harmed(f"not done after {PATIENCE_S} s and {reclaims} reclaims")
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
    if counts["wrong"]:
        raise Harmed(f"{counts['wrong']} words were not what the program had written: {counts}")
    return Row(
        swap=swap,
        **counts,
        reclaims=reclaims,
        released_bytes=released,
        swapped_bytes=swapped,
        seconds=round(time.monotonic() - begun, 1),
    )
