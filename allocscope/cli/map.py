"""``allocscope map``: the mappings of a process by owner."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

import click

from allocscope.cli import options
from allocscope.cli.answer import Form, form_options, tell

if TYPE_CHECKING:
    from pathlib import Path

    from allocscope.render.page import Look

SCHEMA = "map"
OWNERS = 8
"""Rows of each category, unless --rows says otherwise."""


def _rows(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> int | str | None:
    """As options.rows; "" where the option is not given."""
    return "" if value is None else options.rows(context, parameter, value)


@click.command("map", short_help="Every mapping of a process by owner; equal slabs folded.")
@click.argument("target", metavar="PID|FILE")
@click.option("--raw", is_flag=True, help="Every mapping by itself, by address.")
@click.option(
    "--rows",
    callback=_rows,
    metavar="N|all",
    help=f"Owners shown of each category, {OWNERS} by default; with --raw, mappings (all).",
)
@options.exe_option
@options.sample_option
@options.deadline_option
@form_options
def command(
    target: str,
    raw: bool,
    rows: int | Literal[""] | None,
    exe: Path | None,
    sample: int | None,
    deadline_s: float,
    form: Form,
) -> int:
    """Shows what a process, running, recorded or dead (a core file), has mapped and whose it is:
    glibc's heaps, chunks with a mapping of their own, other allocators, runtimes, stacks, files,
    shared memory. Runs of slabs of equal size are one row, which tells how full they are.

    Reads only: the process is not stopped. It works for any process; what belongs to no owner that
    can be recognised is called unexplained.
    """
    wanted = options.target_of(target)
    options.for_files(wanted, sample=sample, exe=exe)
    now = time.time()
    if isinstance(wanted, int):
        from allocscope.app.map import map_process

        report = map_process(wanted, raw=raw, deadline_s=deadline_s)
    else:
        from allocscope.app.map_file import map_of_file

        report = map_of_file(wanted, raw=raw, sample=sample, exe=exe, deadline_s=deadline_s)

    def text(look: Look) -> str:
        from allocscope.render.map import map_text

        return map_text(report, look)

    most = (None if raw else OWNERS) if rows == "" else rows
    return tell(report, SCHEMA, now, form, text, most)
