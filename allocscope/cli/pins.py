"""``allocscope pins``: what holds free memory in a process, a recording or a core."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from allocscope.cli import options
from allocscope.cli.answer import Form, form_options, tell

if TYPE_CHECKING:
    from pathlib import Path

    from allocscope.render.page import Look

SCHEMA = "pins"


@click.command("pins", short_help="Which live chunks hold free memory, and who points at them.")
@click.argument("target", metavar="PID|FILE")
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
@options.exe_option
@options.sample_option
@options.deadline_option
@form_options
def command(
    target: str,
    most: int,
    rows: int | None,
    show_bytes: bool,
    exe: Path | None,
    sample: int | None,
    deadline_s: float,
    form: Form,
) -> int:
    """Names the live chunks that keep free memory in a process: the highest one of each heap, which
    keeps its end where it is, with what it looks like and who points at it; and the chunk sizes
    whose live chunks hold pages.

    Reads only: the process is not stopped. All its writable memory is searched for pointers, twice,
    pages that are present only. A core does not tell what free() would release; a recording made
    without contents not what the chunks are.
    """
    wanted = options.target_of(target)
    options.for_files(wanted, sample=sample, exe=exe)
    from allocscope.app.pins_search import PinsOptions

    now = time.time()
    asked = PinsOptions(most=most, show_bytes=show_bytes, deadline_s=deadline_s)
    if isinstance(wanted, int):
        from allocscope.app.pins import pins

        report = pins(wanted, asked)
    else:
        from allocscope.app.pins_file import pins_of_file

        report = pins_of_file(wanted, asked, sample=sample, exe=exe)

    def text(look: Look) -> str:
        from allocscope.render.pins import pins_text

        return pins_text(report, look)

    return tell(report, SCHEMA, now, form, text, rows)
