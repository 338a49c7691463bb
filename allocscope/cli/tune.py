"""``allocscope tune``: malloc settings in force, and those that are worth a try."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from allocscope.cli import options
from allocscope.cli.answer import Form, form_options, tell

if TYPE_CHECKING:
    from pathlib import Path

    from allocscope.render.page import Look

SCHEMA = "tune"


@click.command("tune", short_help="Malloc settings in force, and which others to try.")
@click.argument("target", metavar="PID|FILE")
@click.option(
    "--rows",
    default="10",
    show_default=True,
    callback=options.rows,
    metavar="N|all",
    help="Rows of the table of arenas; the rest is summed.",
)
@options.exe_option
@options.sample_option
@options.deadline_option
@form_options
def command(
    target: str,
    rows: int | None,
    exe: Path | None,
    sample: int | None,
    deadline_s: float,
    form: Form,
) -> int:
    """Shows what the present state of a process says about MALLOC_ARENA_MAX, the thresholds and
    the thread caches: what is in force, what was set in vain, how the arenas are used, and which
    settings are worth a try, with the command that tries each. A recording tells the same of its
    moment, a core file what is in force and how the arenas are used.

    These are estimates from one look: how much a setting gives back is known when it was tried.
    Reads only: the process is not stopped.
    """
    wanted = options.target_of(target)
    options.for_files(wanted, sample=sample, exe=exe)
    now = time.time()
    if isinstance(wanted, int):
        from allocscope.app.tune import tune

        report = tune(wanted, deadline_s)
    else:
        from allocscope.app.tune_file import tune_of_file

        report = tune_of_file(wanted, sample=sample, exe=exe, deadline_s=deadline_s)

    def text(look: Look) -> str:
        from allocscope.render.tune import tune as draw

        return draw(report, look)

    return tell(report, SCHEMA, now, form, text, rows)
