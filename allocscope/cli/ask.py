"""``allocscope ask``: what glibc itself prints, as it printed it.

Without --json stdout gets glibc's bytes and nothing else, so that they can be piped into other
tools; how they were obtained goes to stderr. On a terminal control characters are escaped, because
the target may have put anything there.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from allocscope.cli import options
from allocscope.cli.output import deliver, deliver_bytes
from allocscope.errors import EXIT_PARTIAL, WrongUsage
from allocscope.render.text import clean, duration, size

if TYPE_CHECKING:
    from allocscope.model.glibc_says import Answer, OwnStatistics, What
    from allocscope.model.report import Report

SCHEMA = "ask"


@click.command("ask", short_help="What glibc itself says: malloc_info, malloc_stats.")
@click.argument("target", metavar="PID")
@click.option(
    "--what",
    type=click.Choice(["malloc_info", "malloc_stats", "both", "runtime"]),
    default="malloc_info",
    show_default=True,
    help="Which of glibc's functions to call; runtime: those of CPython, jemalloc, mimalloc or "
    "tcmalloc in the process, in a copy only.",
)
@click.option(
    "--live",
    is_flag=True,
    help="Call it in the process itself, guarded, instead of in a frozen copy. If allocscope or "
    "gdb is killed meanwhile, the process may be harmed: a copy has no such risk.",
)
@options.max_pause_option
@options.deadline_option
@options.output_options
def command(
    target: str,
    what: What,
    live: bool,
    max_pause_ms: float,
    deadline_s: float,
    as_json: bool,
    output: Path | None,
) -> int:
    """Lets glibc describe its own heap, through gdb, in a frozen copy of the process.

    The process stands still for as long as the copy takes to make, as a fork would. Prints what
    glibc printed; with --json, one object that holds it.
    """
    from allocscope.app.ask import ask

    pid = options.pid_of(target)
    if live and what == "runtime":
        raise WrongUsage(
            "--what runtime asks in a copy only: nobody can judge a runtime's locks from outside",
            "Leave out --live.",
        )
    now = time.time()
    report = ask(
        pid,
        what=what,
        live=live,
        max_pause_ns=options.nanoseconds(max_pause_ms),
        deadline_s=deadline_s,
    )
    if as_json:
        from allocscope.render import json

        deliver(json.dumps(json.envelope(report, SCHEMA, now)), output)
    else:
        raw = (report.data.malloc_info_xml or b"") + (report.data.malloc_stats_text or b"")
        raw += b"".join(own.text for own in report.data.own)
        if output is None and sys.stdout.isatty():
            deliver(_for_terminal(raw), output)
        else:
            deliver_bytes(raw, output)
        for own in report.data.own:
            click.echo(_main_figures(own), err=True)
        click.echo(_obtained(report), err=True)
        for caveat in report.caveats:
            click.echo(f"note: {clean(caveat.message)}", err=True)
    return EXIT_PARTIAL if report.partial else 0


def _main_figures(own: OwnStatistics) -> str:
    """Who printed, and what was recognised in it, in a line each."""
    lines = [f"{own.speaker} ({own.function}):"]
    lines += [f"  {clean(figure.name)}: {size(figure.bytes)}" for figure in own.figures]
    return "\n".join(lines)


def _obtained(report: Report[Answer]) -> str:
    """How the answer was obtained, what it cost, and whether it was a bad moment."""
    answer = report.data
    held = ", ".join(clean(lock) for lock in answer.locks_held)
    locks = f"held, and released in the copy: {held}" if held else "no lock was held"
    return (
        f"{answer.source} of pid {report.process.pid} ({clean(report.process.comm)}), paused "
        f"{duration(answer.pause_ns)}, {duration(answer.elapsed_ns)} in all; {locks}"
    )


def _for_terminal(raw: bytes) -> str:
    text = raw.decode("utf-8", "replace")
    return "".join(clean(line.rstrip("\n")) + "\n" for line in text.splitlines(keepends=True))
