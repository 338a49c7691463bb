"""``allocscope watch``: the memory of a process over time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from allocscope.app.watch import WatchOptions, watch
from allocscope.cli import options
from allocscope.cli.lines import Lines
from allocscope.cli.output import colour


@click.command("watch", short_help="The memory of a process over time.")
@click.argument("target", metavar="PID")
@click.option(
    "--every",
    "every_s",
    type=options.Duration(1),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="From one sample to the next.",
)
@click.option(
    "--for",
    "for_s",
    type=options.Duration(1 / 365),
    metavar="SECONDS",
    help="For how long; until stopped or until the process ends by default.",
)
@click.option(
    "--deadline",
    "deadline_s",
    type=options.Duration(1),
    default=options.DEFAULT_DEADLINE_S,
    show_default=True,
    metavar="SECONDS",
    help="Give up a walk of the heap after this time.",
)
@options.table_options
@click.option(
    "--json", "as_json", is_flag=True, help="A line of JSON for each sample, and one for the end."
)
@options.output_option
@options.debug_option
def command(
    target: str,
    every_s: float,
    for_s: float | None,
    deadline_s: float,
    no_color: bool,
    exact_bytes: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Watches the memory of a process: what the kernel and the headers of malloc's arenas say, at
    every sample, and the ledger of `explain`, walked anew when enough has moved.

    On a terminal a screen, with the keys q (quit) and s (sort); elsewhere a line for each sample,
    with --json an object for each. Reads only: the process is not stopped.
    """
    pid = options.pid_of(target)
    wanted = WatchOptions(every_s=every_s, for_s=for_s, deadline_s=deadline_s)
    with Lines(output, as_json, exact_bytes) as lines:
        if as_json or output is not None or not _on_a_screen():
            lines.end(watch(pid, wanted, lines.show, lines.pause))
            return 0
        from allocscope.cli.screen import view
        from allocscope.render.page import Look

        with view(Look(colour=colour(no_color, output), exact_bytes=exact_bytes)) as shown:
            ended = watch(pid, wanted, shown.show, shown.pause)
        lines.end(ended)
    return 0


def _on_a_screen() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
