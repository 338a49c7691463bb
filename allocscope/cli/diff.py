"""``allocscope diff``: what grew between two recordings or cores, or since one."""

from __future__ import annotations

import time
from pathlib import Path

import click

from allocscope.cli import options
from allocscope.cli.output import colour, deliver, width
from allocscope.errors import EXIT_PARTIAL, WrongUsage

SCHEMA = "diff"


@click.command("diff", short_help="What grew between two recordings or cores, or since one.")
@click.argument("before", metavar="FILE")
@click.argument("after", metavar="FILE|PID")
@click.option(
    "--samples",
    nargs=2,
    type=click.IntRange(min=1),
    metavar="N M",
    help="Which samples of the recordings, counted from 1; the last by default.",
)
@click.option(
    "--rows",
    default="10",
    show_default=True,
    callback=options.rows,
    metavar="N|all",
    help="Rows of each table.",
)
@click.option("--exact", is_flag=True, help="Read a process's smaps also where RSS is above 1 GiB.")
@options.deadline_option
@options.table_options
@options.output_options
def command(
    before: str,
    after: str,
    samples: tuple[int, int] | None,
    rows: int | None,
    exact: bool,
    deadline_s: float,
    no_color: bool,
    exact_bytes: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Compares two recordings or core files, or one of them with a running process, and tells
    growth of live bytes (a leak) from growth of free bytes that stay resident (retention): by
    arena, chunk size and mapping.

    The two may be the same recording: `allocscope diff FILE FILE --samples 1 9`.
    """
    targets = options.target_of(before), options.target_of(after)
    if all(isinstance(target, int) for target in targets):
        raise WrongUsage(
            "two running processes are not compared",
            "Record one first: `allocscope record PID -o FILE`.",
        )
    one, other = samples or (None, None)
    if samples and any(isinstance(target, int) for target in targets):
        raise WrongUsage(
            "a running process has no samples", "Leave --samples out, or compare FILEs."
        )
    from allocscope.app.diff import DiffOptions, diff

    now = time.time()
    wanted = DiffOptions(one, other, exact=exact, deadline_s=deadline_s)
    report = diff(*targets, wanted)
    if as_json:
        from allocscope.render import json

        deliver(json.dumps(json.envelope(report, SCHEMA, now)), output)
    else:
        from allocscope.render.diff import diff as text
        from allocscope.render.page import Look

        look = Look(width(output), colour(no_color, output), exact_bytes, rows)
        deliver(text(report, look), output)
    return EXIT_PARTIAL if report.partial else 0
