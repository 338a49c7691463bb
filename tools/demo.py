"""``./dev demo``: a fragmented process, and what allocscope says about it.

Strategy: build the ``scattered`` fixture, wait until it says that it is ready (one JSON line), run
the two commands a newcomer should see on it, and end it by closing its standard input. Everything
goes through the command line, as a user would do it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "fixtures" / "scattered").glob("*.c"))
COMMANDS = (["arenas"], ["ask"])


def build(program: Path) -> None:
    """Compiles the fixture into ``program``; the compiler's own message is the error message."""
    includes = ["-I", str(ROOT / "fixtures")]
    command = ["gcc", "-std=gnu11", "-O2", "-pthread", *includes, *map(str, SOURCES)]
    subprocess.run([*command, "-o", str(program)], check=True)


def show(verb: list[str], pid: int) -> int:
    """Runs one allocscope command on ``pid`` as a user would, and returns its exit status."""
    print(f"\n$ allocscope {' '.join(verb)} {pid}", flush=True)
    done = subprocess.run([sys.executable, "-m", "allocscope", *verb, str(pid)], check=False)
    return done.returncode


def main() -> int:
    """The first exit status that is not 0, else 0."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "scattered"
        print("Building fixtures/scattered: threads that free 90 % of their memory at random")
        build(program)
        with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as target:
            assert target.stdout is not None
            ready = json.loads(target.stdout.readline())
            print(f"It runs as process {ready['pid']} and knows of itself:")
            print(f"  {json.dumps(ready.get('truth', {}))}")
            statuses = [show(verb, ready["pid"]) for verb in COMMANDS]
    return next((status for status in statuses if status), 0)


if __name__ == "__main__":
    sys.exit(main())
