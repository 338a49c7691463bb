"""``allocscope doctor``: what works here, what does not, and the cure."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from allocscope.cli import options
from allocscope.cli.output import colour, deliver, width
from allocscope.errors import MissingPart, WrongUsage

if TYPE_CHECKING:
    from allocscope.model.checks import Checkup

SCHEMA = "doctor"


@click.command("doctor", short_help="What works here, what does not, and the cure.")
@click.argument("target", metavar="[PID]", required=False)
@click.option(
    "--layout",
    is_flag=True,
    help="Report what glibc's malloc looks like there, so that a row can be added for it.",
)
@click.option(
    "--clean",
    is_flag=True,
    help="Take away what an allocscope that was killed has left below the process.",
)
@click.option("--no-color", is_flag=True, help="No colours (also: NO_COLOR, or not a terminal).")
@options.output_options
def command(
    target: str | None,
    layout: bool,
    clean: bool,
    no_color: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Tells what allocscope can do on this machine and, given a PID, with that process.

    Ends with 0 even when something is degraded, with 8 when something is missing without which
    `arenas` cannot work. With --layout the answer is a report on the process's C library alone: no
    address and no content is in it. --clean stops one thread of the process for less than a
    millisecond, if there is anything to take away.
    """
    pid = None if target is None else options.pid_of(target)
    now = time.time()
    if layout and clean:
        raise WrongUsage("--layout and --clean exclude each other", "Give one of them.")
    found = _layout(pid) if layout else _clean(pid) if clean else _doctor(pid)
    if as_json:
        from allocscope.render import json

        answer = json.wrap(SCHEMA, now, process=found.process, data=json.plain(found.data))
        deliver(json.dumps(answer), output)
    else:
        from allocscope.render.checks import checks
        from allocscope.render.page import Look

        look = Look(width(output), colour(no_color, output))
        if found.data.layout is not None:
            from allocscope.render.layout_report import layout_report

            deliver(layout_report(found.data.layout, look), output)
        else:
            deliver(checks(found.data.checks, look), output)
    return MissingPart.exit_code if found.blocked else 0


def _doctor(pid: int | None) -> Checkup:
    from allocscope.app.doctor import doctor

    return doctor(pid)


def _layout(pid: int | None) -> Checkup:
    if pid is None:
        raise WrongUsage("--layout is about the C library of a process", "Give its PID.")
    from allocscope.app.doctor_layout import doctor_layout

    return doctor_layout(pid)


def _clean(pid: int | None) -> Checkup:
    if pid is None:
        raise WrongUsage("--clean is about what was left below a process", "Give its PID.")
    from allocscope.app.doctor_leftovers import clean

    return clean(pid)
