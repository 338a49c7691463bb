"""``allocscope record``: what a later reading of a process's heap needs, in a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from allocscope.cli import options
from allocscope.cli.answer import Form, tell
from allocscope.errors import WrongUsage

if TYPE_CHECKING:
    from allocscope.render.page import Look

SCHEMA = "record"


@click.command("record", short_help="Write a process's heap structure to a file, to read later.")
@click.argument("target", metavar="PID")
@click.option(
    "-o",
    "--output",
    "path",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The recording; readable for you only (mode 0600).",
)
@click.option(
    "--every",
    "every_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Take further samples at this interval, with --for.",
)
@click.option(
    "--for",
    "for_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="How long to go on taking samples.",
)
@click.option(
    "--with-contents",
    is_flag=True,
    help="Record whole pages of arenas, stacks and variables: all that is there, secrets too.",
)
@click.option("--exact", is_flag=True, help="Read smaps also where RSS is above 1 GiB.")
@click.option("--snapshot", is_flag=True, help="Record a frozen copy: for a process that is busy.")
@options.max_pause_option
@options.deadline_option
@options.json_option
@options.debug_option
def command(
    target: str,
    path: Path,
    every_s: float | None,
    for_s: float | None,
    with_contents: bool,
    exact: bool,
    snapshot: bool,
    max_pause_ms: float,
    deadline_s: float,
    as_json: bool,
) -> int:
    """Records the structure of a process's heap: arenas, chunk headers and links, page states,
    mappings, settings; not what the program stored there, unless --with-contents asks for it.

    `allocscope arenas FILE` and `allocscope diff` read it, on any machine.
    """
    pid = options.pid_of(target)
    if (every_s is None) != (for_s is None):
        raise WrongUsage("--every and --for belong together", "Give both or neither.")
    from allocscope.app.record import Opener, RecordOptions, passive, record

    opener: Opener = passive
    if snapshot:
        from allocscope.app.record_frozen import snapshot as frozen

        opener = frozen(options.nanoseconds(max_pause_ms))
    wanted = RecordOptions(
        with_contents=with_contents,
        exact=exact,
        deadline_s=deadline_s,
        every_s=every_s,
        for_s=for_s or 0.0,
    )
    now = time.time()
    report = record(pid, path, wanted, opener)

    def text(look: Look) -> str:
        from allocscope.render.record import record as draw

        return draw(report, look)

    return tell(report, SCHEMA, now, Form(as_json=as_json, no_color=True), text)
