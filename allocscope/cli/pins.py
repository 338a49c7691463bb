"""``allocscope pins``: what holds free memory in a process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from allocscope.cli import options
from allocscope.cli.answer import Form, form_options, tell

if TYPE_CHECKING:
    from allocscope.render.page import Look

SCHEMA = "pins"


@click.command("pins", short_help="Which live chunks hold free memory, and who points at them.")
@click.argument("target", metavar="PID")
@click.option(
    "--most",
    type=click.IntRange(min=1, max=100),
    default=10,
    show_default=True,
    metavar="N",
    help="Of how many chunks to find out what they are and who points at them.",
)
@click.option(
    "--rows",
    default="10",
    show_default=True,
    callback=options.rows,
    metavar="N|all",
    help="Size classes shown.",
)
@click.option(
    "--show-bytes",
    is_flag=True,
    help="Show each chunk's first bytes. They are the program's data: mind who reads them.",
)
@options.deadline_option
@form_options
def command(
    target: str,
    most: int,
    rows: int | None,
    show_bytes: bool,
    deadline_s: float,
    form: Form,
) -> int:
    """Names the live chunks that keep free memory in a process: the highest one of each heap, which
    keeps its end where it is, with what it looks like and who points at it; and the chunk sizes
    whose live chunks hold pages.

    Reads only: the process is not stopped. All its writable memory is searched for pointers, twice,
    pages that are present only.
    """
    from allocscope.app.pins import PinsOptions, pins

    pid = options.pid_of(target)
    now = time.time()
    report = pins(pid, PinsOptions(most=most, show_bytes=show_bytes, deadline_s=deadline_s))

    def text(look: Look) -> str:
        from allocscope.render.pins import pins_text

        return pins_text(report, look)

    return tell(report, SCHEMA, now, form, text, rows)
