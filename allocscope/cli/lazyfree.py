"""``allocscope lazyfree``: pages that were given back with MADV_FREE and still count in RSS."""

from __future__ import annotations

import time
from pathlib import Path

import click

from allocscope.cli import options
from allocscope.cli.output import colour, deliver, width
from allocscope.errors import EXIT_PARTIAL

SCHEMA = "lazyfree"


@click.command("lazyfree", short_help="Pages given back with MADV_FREE that RSS still counts.")
@click.argument("target", metavar="PID")
@click.option(
    "--reclaim",
    is_flag=True,
    help="Make the kernel take exactly these pages back (CAP_SYS_NICE and CAP_SYS_ADMIN).",
)
@click.option(
    "--rows",
    default="20",
    show_default=True,
    callback=options.rows,
    metavar="N|all",
    help="Rows of the table; the rest is summed.",
)
@options.table_options
@options.output_options
def command(
    target: str,
    reclaim: bool,
    rows: int | None,
    no_color: bool,
    exact_bytes: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Shows which mappings of a process hold pages that were given back with MADV_FREE, and whose
    they are. The kernel takes such pages only when it needs memory; until then RSS counts them.

    Reads only, unless --reclaim asks the kernel to take them now. That touches no page that is in
    use: a page that was written to again is kept, by the kernel itself.
    """
    pid = options.pid_of(target)
    now = time.time()
    if reclaim:
        from allocscope.app.reclaim import reclaim as reclaim_pages

        report = reclaim_pages(pid)
    else:
        from allocscope.app.lazyfree import lazyfree

        report = lazyfree(pid)
    if as_json:
        from allocscope.render import json

        deliver(json.dumps(json.envelope(report, SCHEMA, now)), output)
    else:
        from allocscope.render import lazyfree as pages
        from allocscope.render.page import Look

        look = Look(width(output), colour(no_color, output), exact_bytes, rows)
        deliver(pages.lazyfree(report, look), output)
    return EXIT_PARTIAL if report.partial else 0
