"""The plainest call, ``arenas PID --json``, as a monitor makes it every minute: answered without
click, which would take as long to load as half of the heap takes to read.

Rule: it answers what it can answer wholly and leaves everything else to the command proper, which
then starts from the beginning: any further word on the command line, any error of the reading. So
options, messages and exit statuses are defined there alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from allocscope.cli.exits import INTERRUPTED
from allocscope.cli.output import deliver
from allocscope.errors import EXIT_PARTIAL, AllocscopeError

FLAG = "--json"


def answer(words: Sequence[str]) -> int | None:
    """Prints the answer and returns the exit status; None where this is not the plainest call, or
    where it failed: then nothing was printed."""
    pid = _pid_of(words)
    if pid is None:
        return None
    from allocscope.app.arenas import ArenasOptions, arenas
    from allocscope.render import json

    try:
        when = time.time()
        report = arenas(pid, ArenasOptions())
        text = json.dumps(json.envelope(report, "arenas", when))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:
        return None
    try:
        deliver(text, None)
    except AllocscopeError as error:
        from allocscope.cli.group import refused

        return refused(error)
    return EXIT_PARTIAL if report.partial else 0


def _pid_of(words: Sequence[str]) -> int | None:
    if len(words) != 3 or words[0] != "arenas" or FLAG not in words[1:]:
        return None
    target = words[1] if words[2] == FLAG else words[2]
    return int(target) if target.isascii() and target.isdigit() else None
