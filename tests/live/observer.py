"""Takes a snapshot and a copy of it, as a program that tests may kill: observer.py PID [hold | call
ADDRESS].

``hold``: prints the pids of both and waits for the end of stdin before it ends them. ``call``:
makes the copy call the function there, with the argument 0.
"""

from __future__ import annotations

import signal
import sys
import time

from allocscope.act.snapshot import CopyPlan, frozen

# A shell that runs the tests in the background has them ignore SIGINT, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

pid, wish = int(sys.argv[1]), sys.argv[2:]
with frozen(pid, deadline_ns=time.monotonic_ns() + 20_000_000_000) as snapshot:
    if wish[:1] == ["call"]:
        with snapshot.stage((), ()) as stage:
            stage.call(int(wish[1], 0), 0)
    else:
        with snapshot.disposable(CopyPlan((), None, None)) as copy:
            if wish == ["hold"]:
                print(snapshot.pid, copy.pid, flush=True)
                sys.stdin.read()
