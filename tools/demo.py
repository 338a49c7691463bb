"""``./dev demo``: a fragmented process, and what allocscope says about it.

Strategy: run the ``scattered`` fixture and the commands that a newcomer should see on it. They go
through the command line, as a user would call them.
"""

from __future__ import annotations

import subprocess
import sys

from allocscope.lab import fixture

COMMANDS = (
    ("arenas",),
    ("arenas", "--by", "size", "--rows", "8"),
    ("ask", "--what", "malloc_stats"),
)
THREADS = 4


def show(command: tuple[str, ...], pid: int) -> int:
    """Runs one allocscope command on ``pid`` as a user would, and returns its exit status."""
    verb, *options = command
    words = [verb, str(pid), *options]
    print(f"\n$ allocscope {' '.join(words)}", flush=True)
    return subprocess.run([sys.executable, "-m", "allocscope", *words]).returncode


def main() -> int:
    """The first exit status that is not 0, else 0."""
    print("fixtures/scattered: threads that free 90 % of their memory at random; building it")
    with fixture.run("scattered", threads=THREADS) as target:
        truth = target.truth
        print(
            f"It runs as process {target.pid} and knows of itself: {truth['live_count']} chunks of "
            f"{truth['live_chunk_bytes']} bytes are live, {truth['freed_bytes']} bytes were freed."
        )
        statuses = [show(command, target.pid) for command in COMMANDS]
    print("\nNext: allocscope --help, and docs/concepts.md for the meaning of each figure.")
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main())
