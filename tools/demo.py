"""``./dev demo``: a fragmented process, and what allocscope says about it.

Strategy: run the ``scattered`` fixture and the two commands that a newcomer should see on it. Both
go through the command line, as a user would call them.
"""

from __future__ import annotations

import json
import subprocess
import sys

from allocscope.lab import fixture

VERBS = ("arenas", "ask")


def show(verb: str, pid: int) -> int:
    """Runs one allocscope command on ``pid`` as a user would, and returns its exit status."""
    print(f"\n$ allocscope {verb} {pid}", flush=True)
    return subprocess.run([sys.executable, "-m", "allocscope", verb, str(pid)]).returncode


def main() -> int:
    """The first exit status that is not 0, else 0."""
    print("fixtures/scattered: threads that free 90 % of their memory at random; building it")
    with fixture.run("scattered") as target:
        print(f"It runs as process {target.pid} and knows of itself:")
        print(json.dumps(dict(target.truth), indent=2))
        statuses = [show(verb, target.pid) for verb in VERBS]
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main())
