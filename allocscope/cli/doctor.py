"""``allocscope doctor``: what works here, what does not, and the cure."""

from __future__ import annotations

import time
from pathlib import Path

import click

from allocscope.cli import options
from allocscope.cli.output import colour, deliver, width
from allocscope.errors import MissingPart

SCHEMA = "doctor"


@click.command("doctor", short_help="What works here, what does not, and the cure.")
@click.argument("target", metavar="[PID]", required=False)
@click.option("--no-color", is_flag=True, help="No colours (also: NO_COLOR, or not a terminal).")
@options.output_options
def command(target: str | None, no_color: bool, as_json: bool, output: Path | None) -> int:
    """Tells what allocscope can do on this machine and, given a PID, with that process.

    Ends with 0 even when something is degraded, with 8 when something is missing without which
    `arenas` cannot work.
    """
    from allocscope.app.doctor import doctor

    now = time.time()
    found = doctor(None if target is None else options.pid_of(target))
    if as_json:
        from allocscope.render import json

        answer = json.wrap(SCHEMA, now, process=found.process, data=json.plain(found.data))
        deliver(json.dumps(answer), output)
    else:
        from allocscope.render.checks import checks
        from allocscope.render.page import Look

        look = Look(width(output), colour(no_color, output))
        deliver(checks(found.data.checks, look), output)
    return MissingPart.exit_code if found.blocked else 0
