"""Records the stress program under each glibc of the archive, into tests/samples: regression data
that needs no archive and no machine of that kind.

``python -m glibcs.samples`` (PYTHONPATH=tests) writes, for each x86-64 and i386 glibc, a recording
``glibc-VERSION-MACHINE.rec`` and beside it what the program said of itself. One that is there
already is kept: the archive moves on, samples stay.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from allocscope.app.record import RecordOptions, record
from glibcs import fetch, programs

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
MACHINES = {"amd64": "x86-64", "i386": "i386"}
SEED, THREADS, STEPS = "7", "4", "2500"


def sample_of(tree: fetch.Tree, directory: Path) -> Path | None:
    """Writes one sample; None where it is there already."""
    path = SAMPLES / f"glibc-{tree.version}-{MACHINES[tree.machine]}.rec"
    if path.exists():
        return None
    program = directory / f"stress-{tree.machine}"
    programs.build([programs.HERE / "stress.c"], program, machine=tree.machine)
    with programs.running(tree, program, SEED, THREADS, STEPS) as ready:
        record(ready["pid"], path, RecordOptions())
    path.chmod(0o644)
    said = {"package": tree.package_version, "truth": ready["truth"]}
    path.with_suffix(".json").write_text(json.dumps(said, indent=1) + "\n")
    return path


def main() -> int:
    """Exit status 1 when a suite could not be had."""
    missing = False
    programs_built = fetch.cache().parent / "samples"  # a recording tells where its program lay
    programs_built.mkdir(parents=True, exist_ok=True)
    for tree in fetch.trees(machines=fetch.NATIVE):
        if isinstance(tree, fetch.NotFetched):
            missing = True
            print(f"{tree.suite} {tree.machine}: not tested: {tree.reason}")
        elif path := sample_of(tree, programs_built):
            print(f"{path.name}: {path.stat().st_size} bytes")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
