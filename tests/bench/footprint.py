"""``footprint --all --json`` against ``cat /proc/*/smaps_rollup``, with 2,000 processes more than
there were: the kernel's own work is the same in both. And what ``--retained`` adds, in time of the
processor, of which all 2,000 run one program."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common import ALLOCSCOPE, HERE, at_most, medians, seconds

PROCESSES, MIB = 2000, 8
LIMIT = 3.0  # read in Python; a reading in the native helper would have to stay below 1.5
RETAINED_LIMIT = 4.0


@contextlib.contextmanager
def crowd() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "crowd"
        subprocess.run(["gcc", "-O2", str(HERE / "crowd.c"), "-o", str(program)], check=True)
        command = [str(program), str(PROCESSES), str(MIB)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin and process.stdout
            assert process.stdout.readline() == b"ready\n"
            yield
            process.stdin.close()


def cat() -> None:
    """Processes that end or may not be read make cat complain, and go on."""
    files = list(Path("/proc").glob("[0-9]*/smaps_rollup"))
    subprocess.run(["cat", *files], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def all_footprints(*words: str) -> None:
    """Ends with 6 where a process may not be read."""
    command = [*ALLOCSCOPE, "footprint", "--all", *words, "--json", "--output", os.devnull]
    done = subprocess.run(command, capture_output=True)
    assert done.returncode in (0, 6), done.stderr


def processor_seconds(*words: str) -> float:
    """Of the command, which is a child of this process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    all_footprints(*words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure() -> dict[str, object]:
    with crowd():
        ours, theirs = medians(lambda: seconds(all_footprints), lambda: seconds(cat))
        retained, without = medians(lambda: processor_seconds("--retained"), processor_seconds)
    return {
        "footprint_retained_ratio": at_most(
            retained / without,
            RETAINED_LIMIT,
            retained_processor_s=round(retained, 4),
            without_processor_s=round(without, 4),
            process_count=PROCESSES,
        ),
        "footprint_all_ratio": at_most(
            ours / theirs,
            LIMIT,
            allocscope_s=round(ours, 4),
            cat_s=round(theirs, 4),
            process_count=PROCESSES,
        ),
    }
