"""The command: options in, text out. One file per verb; each parses, calls one use case, and hands
the result to render.

Rules: nothing here knows the heap; a verb's module imports its use case and its renderer only when
it runs, so that ``arenas --json`` starts without rich, lxml, pygdbmi and pyelftools; results go to
stdout, everything else to stderr; how a command may end is docs/exit-codes.md.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The entry point of the ``allocscope`` command; ends the process with the exit status."""
    from allocscope.cli.group import run

    sys.exit(run(arguments))
