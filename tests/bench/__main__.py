"""``./dev bench [NAME…]``: speed and memory as measured, beside what they should be, as JSON.

Exit status 0 whatever was measured: a ratio on a busy machine is a figure to read, not a test.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

BENCHMARKS = ("wall", "walk", "stops", "memory", "large", "crowd", "mapping", "core")


def main() -> int:
    names = sys.argv[1:] or BENCHMARKS
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
        return 2
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
