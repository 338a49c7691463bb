"""``allocscope explain``: where the resident memory of a process is, and why."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from allocscope.cli import options
from allocscope.cli.answer import Form, form_options, tell

if TYPE_CHECKING:
    from allocscope.render.page import Look

SCHEMA = "explain"


@click.command("explain", short_help="Where the memory of a process is, why, and what to do.")
@click.argument("target", metavar="PID")
@click.option(
    "--html",
    "html_file",
    type=options.FilePath(dir_okay=False),
    metavar="FILE",
    help="Write it there too as one page for a browser, with a map of the heaps' pages.",
)
@options.deadline_option
@form_options
def command(
    target: str,
    html_file: Path | None,
    deadline_s: float,
    form: Form,
) -> int:
    """Explains the resident memory of a process: every byte of it in one row of a ledger that adds
    up to RSS, the causes by weight, and what each remedy would give back.

    Reads only: the process is not stopped. `allocscope PID` is the same.
    """
    from allocscope.app.explain import ExplainOptions, portrait

    pid = options.pid_of(target)
    now = time.time()
    asked = ExplainOptions(deadline_s=deadline_s, pages=html_file is not None)
    report, found = portrait(pid, asked)
    if html_file is not None:
        from allocscope.cli.html_file import page_files, write_privately
        from allocscope.render.html import page

        write_privately(page(report, found, page_files(), now), html_file)

    def text(look: Look) -> str:
        from allocscope.render.explain import explain as draw

        return draw(report, look)

    return tell(report, SCHEMA, now, form, text)
