"""``allocscope explain``: where the resident memory of a process is or was, and why."""

from __future__ import annotations

import time
from pathlib import Path

import click

from allocscope.cli import options
from allocscope.cli.output import colour, deliver, width
from allocscope.errors import EXIT_PARTIAL, WrongUsage

SCHEMA = "explain"


@click.command("explain", short_help="Where the memory of a process is, why, and what to do.")
@click.argument("target", metavar="PID|FILE")
@click.option(
    "--html",
    "html_file",
    type=options.FilePath(dir_okay=False),
    metavar="FILE",
    help="Write it there too as one page for a browser, with a map of the heaps' pages.",
)
@options.sample_option
@options.deadline_option
@options.table_options
@options.output_options
def command(
    target: str,
    html_file: Path | None,
    sample: int | None,
    deadline_s: float,
    no_color: bool,
    exact_bytes: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Explains the resident memory of a process, running or recorded: every byte of it in one row
    of a ledger that adds up to RSS, the causes by weight, and what each remedy would give back.

    Reads only: a process is not stopped. `allocscope PID` and `allocscope FILE` are the same.
    """
    from allocscope.app.explain import ExplainOptions

    wanted = options.target_of(target)
    now = time.time()
    asked = ExplainOptions(deadline_s=deadline_s, pages=html_file is not None)
    if isinstance(wanted, int):
        if sample is not None:
            raise WrongUsage(
                f"{target} is a running process: --sample is for files", "Leave it out."
            )
        from allocscope.app.explain import portrait

        report, found = portrait(wanted, asked)
    else:
        from allocscope.app.explain_file import portrait_of_file

        report, found = portrait_of_file(wanted, asked, sample=sample)
    if html_file is not None:
        from allocscope.cli.html_file import page_files, write_privately
        from allocscope.render.html import page

        write_privately(page(report, found, page_files(), now), html_file)
    if as_json:
        from allocscope.render import json

        deliver(json.dumps(json.envelope(report, SCHEMA, now)), output)
    else:
        from allocscope.render.explain import explain as text
        from allocscope.render.page import Look

        look = Look(width(output), colour(no_color, output), exact_bytes)
        deliver(text(report, look), output)
    return EXIT_PARTIAL if report.partial else 0
