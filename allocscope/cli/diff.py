"""``allocscope diff``: what grew between two recordings or cores, or since one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from allocscope.cli import options
from allocscope.cli.answer import Form, form_options, tell
from allocscope.errors import WrongUsage

if TYPE_CHECKING:
    from allocscope.render.page import Look

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
@form_options
def command(
    before: str,
    after: str,
    samples: tuple[int, int] | None,
    rows: int | None,
    exact: bool,
    deadline_s: float,
    form: Form,
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

    def text(look: Look) -> str:
        from allocscope.render.diff import diff as draw

        return draw(report, look)

    return tell(report, SCHEMA, now, form, text, rows)
