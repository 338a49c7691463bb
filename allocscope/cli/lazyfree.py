"""``allocscope lazyfree``: pages that were given back with MADV_FREE and still count in RSS."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from allocscope.cli import options
from allocscope.cli.answer import Form, form_options, tell

if TYPE_CHECKING:
    from allocscope.render.page import Look

SCHEMA = "lazyfree"


@click.command("lazyfree", short_help="Pages given back with MADV_FREE that RSS still counts.")
@click.argument("target", metavar="PID|FILE")
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
@options.sample_option
@form_options
def command(
    target: str,
    reclaim: bool,
    rows: int | None,
    sample: int | None,
    form: Form,
) -> int:
    """Shows which mappings of a process hold pages that were given back with MADV_FREE, and whose
    they are. The kernel takes such pages only when it needs memory; until then RSS counts them.

    A recording tells it of its moment; a core file does not tell it.

    Reads only, unless --reclaim asks the kernel to take them now. That touches no page that is in
    use: a page that was written to again is kept, by the kernel itself.
    """
    wanted = options.target_of(target)
    options.for_files(wanted, sample=sample)
    now = time.time()
    if not isinstance(wanted, int):
        options.for_processes(wanted, "--reclaim" if reclaim else None)
        from allocscope.app.lazyfree_file import lazyfree_of_file

        report = lazyfree_of_file(wanted, sample=sample)
    elif reclaim:
        from allocscope.app.reclaim import reclaim as reclaim_pages

        report = reclaim_pages(wanted)
    else:
        from allocscope.app.lazyfree import lazyfree

        report = lazyfree(wanted)

    def text(look: Look) -> str:
        from allocscope.render.lazyfree import lazyfree as draw

        return draw(report, look)

    return tell(report, SCHEMA, now, form, text, rows)
