"""``./dev bench [NAME…]``: speed and memory as measured, beside what they should be, as JSON.

What is measured has its bytecode, as pip leaves it to every user: where an environment forbids
Python to write it, each start of a checkout would compile all of allocscope anew.

Exit status 0 whatever was measured: a ratio on a busy machine is a figure to read, not a test.
"""

from __future__ import annotations

import compileall
import importlib
import json
import os
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "allocscope"
BENCHMARKS = (
    "wall",
    "walk",
    "stops",
    "memory",
    "pins",
    "footprint",
    "explain",
    "page",
    "forecast",
    "apply",
    "large",
    "crowd",
    "mapping",
    "core",
    "watch",
)


def main() -> int:
    names = sys.argv[1:] or BENCHMARKS
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
        return 2
    compileall.compile_dir(PACKAGE, quiet=1)
    results = {}
    for name in names:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        results[name] = importlib.import_module(name).measure()
    system = os.uname()
    machine = {"kernel": system.release, "cpus": os.cpu_count(), "load": os.getloadavg()}
    print(json.dumps({"machine": machine, "benchmarks": results}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
