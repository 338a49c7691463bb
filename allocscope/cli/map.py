"""``allocscope map``: the mappings of a process by owner."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import click

from allocscope.cli import options
from allocscope.cli.output import colour, deliver, width
from allocscope.errors import EXIT_PARTIAL

SCHEMA = "map"
OWNERS = 8
"""Rows of each category, unless --rows says otherwise."""


def _rows(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> int | str | None:
    """As options.rows; "" where the option is not given."""
    return "" if value is None else options.rows(context, parameter, value)


@click.command("map", short_help="Every mapping of a process by owner; equal slabs folded.")
@click.argument("target", metavar="PID")
@click.option("--raw", is_flag=True, help="Every mapping by itself, by address.")
@click.option(
    "--rows",
    callback=_rows,
    metavar="N|all",
    help=f"Owners shown of each category, {OWNERS} by default; with --raw, mappings (all).",
)
@options.deadline_option
@options.table_options
@options.output_options
def command(
    target: str,
    raw: bool,
    rows: int | Literal[""] | None,
    deadline_s: float,
    no_color: bool,
    exact_bytes: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Shows what a process has mapped and whose it is: glibc's heaps, chunks with a mapping of
    their own, other allocators, runtimes, stacks, files, shared memory. Runs of slabs of equal size
    are one row, which tells how full they are.

    Reads only: the process is not stopped. It works for any process; what belongs to no owner that
    can be recognised is called unexplained.
    """
    from allocscope.app.map import map_process

    pid = options.pid_of(target)
    now = time.time()
    report = map_process(pid, raw=raw, deadline_s=deadline_s)
    if as_json:
        from allocscope.render import json

        deliver(json.dumps(json.envelope(report, SCHEMA, now)), output)
    else:
        from allocscope.render.map import map_text
        from allocscope.render.page import Look

        most = (None if raw else OWNERS) if rows == "" else rows
        look = Look(width(output), colour(no_color, output), exact_bytes, most)
        deliver(map_text(report, look), output)
    return EXIT_PARTIAL if report.partial else 0
