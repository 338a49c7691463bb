"""Makes one thread of a process call malloc_trim, as a program that tests may kill: trimmer.py PID
TID."""

from __future__ import annotations

import sys

from live.trimmed import trim

from allocscope.act import trim_thread
from allocscope.errors import AllocscopeError

pid, tid = map(int, sys.argv[1:])
choose = trim_thread.choose


def only_this(*arguments):  # type: ignore[no-untyped-def]
    found, reasons = choose(*arguments)
    return [candidate for candidate in found if candidate.tid == tid], reasons


trim_thread.choose = only_this
try:
    trim(pid, deadline_s=10)
except AllocscopeError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
