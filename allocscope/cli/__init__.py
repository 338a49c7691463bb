"""The command: options in, text out. One file per verb; each parses, calls one use case, and hands
the result to render.

Rules: nothing here knows the heap; a verb's module imports its use case and its renderer only when
it runs, so that ``arenas --json`` starts without rich, lxml, pygdbmi and pyelftools; results go to
stdout, everything else to stderr; how a command may end is docs/exit-codes.md.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from allocscope.typed import NoReturn

COLLECT_AFTER = 100_000
"""New objects after which Python looks for garbage. Its default of 700 makes it do so some fifty
times while the modules load, and find none."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point of the ``allocscope`` command; ends the process with the exit status."""
    gc.set_threshold(COLLECT_AFTER)
    if sys.stdout is None:  # closed by whoever called: nobody wants to read
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 -- for as long as the process lives
    from allocscope.cli import plain

    words = sys.argv[1:] if arguments is None else list(arguments)
    status = plain.answer(words)
    if status is not None and arguments is None:
        os._exit(status)  # all is written; taking Python apart would take longer than writing it
    if status is None:
        from allocscope.cli.group import run

        status = run(words)
    gc.freeze()  # nothing of what is left needs to be looked through on the way out
    sys.exit(status)
