"""``allocscope trim``: what malloc_trim would give back; a rehearsal; the real thing, audited."""

from __future__ import annotations

import time
from pathlib import Path

import click

from allocscope.cli import options
from allocscope.cli.output import colour, deliver, width
from allocscope.errors import EXIT_PARTIAL

SCHEMA = "trim"


@click.command("trim", short_help="What malloc_trim would give back; rehearsed; done and audited.")
@click.argument("target", metavar="PID")
@click.option(
    "--pad",
    "pad_bytes",
    type=click.IntRange(min=0, max=(1 << 63) - 1),
    default=0,
    show_default=True,
    metavar="BYTES",
    help="malloc_trim's argument: what to leave free at the main arena's top.",
)
@click.option(
    "--rehearse", is_flag=True, help="Run malloc_trim in a frozen copy and measure what it gives."
)
@options.max_pause_option
@options.deadline_option
@options.table_options
@options.output_options
def command(
    target: str,
    pad_bytes: int,
    rehearse: bool,
    max_pause_ms: float,
    deadline_s: float,
    no_color: bool,
    exact_bytes: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Foretells what malloc_trim would give back to the kernel, arena by arena and to the page,
    what would stay and why, and what it costs.
    """
    from allocscope.app.trim import TrimOptions, trim

    pid = options.pid_of(target)
    wanted = TrimOptions(pad_bytes, deadline_s)
    now = time.time()
    if rehearse:
        from allocscope.app.trim_rehearse import rehearse as run

        report = run(pid, wanted, max_pause_ns=options.nanoseconds(max_pause_ms))
    else:
        report = trim(pid, wanted)
    if as_json:
        from allocscope.render import json

        deliver(json.dumps(json.envelope(report, SCHEMA, now)), output)
    else:
        from allocscope.render.page import Look
        from allocscope.render.trim import trim as text

        look = Look(width(output), colour(no_color, output), exact_bytes)
        deliver(text(report, look), output)
    return EXIT_PARTIAL if report.partial else 0
