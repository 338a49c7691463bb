"""``./dev fuzz [--examples N] [--seed S] [pytest arguments]``: the fuzzing tests, in long form.

Strategy: tests/fuzz runs in the suite with the same few hundred examples every time; here with
as many as asked, and others at each call. The seed is printed first, so that a run can be repeated.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def kinds() -> int:
    """How many fuzzing tests there are."""
    files = sorted((ROOT / "tests" / "fuzz").glob("test_*.py"))
    return sum(len(re.findall(r"^@given", file.read_text(), re.MULTILINE)) for file in files)


def main() -> int:
    parser = argparse.ArgumentParser(prog="dev fuzz")
    parser.add_argument("--examples", type=int, default=2000, help="of each kind (2000)")
    parser.add_argument("--seed", type=int, default=None, help="to repeat a run")
    wish, others = parser.parse_known_args()
    seed = random.SystemRandom().randrange(1 << 32) if wish.seed is None else wish.seed
    print(f"fuzz: seed {seed}, {wish.examples} examples of each of {kinds()} kinds", flush=True)
    begun = time.monotonic()
    command = [sys.executable, "-m", "pytest", "tests/fuzz", f"--hypothesis-seed={seed}", *others]
    environment = {**os.environ, "FUZZ_EXAMPLES": str(wish.examples)}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    result = "passed" if done.returncode == 0 else "FAILED"
    print(f"fuzz: {result}, seed {seed}, {time.monotonic() - begun:.0f} s")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
