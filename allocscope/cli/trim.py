"""``allocscope trim``: what malloc_trim would give back; a rehearsal; the real thing, audited."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from allocscope.cli import amounts, exits, options
from allocscope.cli.answer import Form, form_options, tell
from allocscope.cli.output import deliver
from allocscope.errors import EXIT_PARTIAL, WrongUsage

if TYPE_CHECKING:
    from allocscope.app.trim import TrimOptions
    from allocscope.app.trim_repeat import Outcome, Threshold
    from allocscope.model.report import Report
    from allocscope.model.trim import TrimData
    from allocscope.render.page import Look

SCHEMA = "trim"
STOPGAP = (
    "trimming again and again is a stopgap: it costs page faults each time; "
    "`allocscope arenas` says why the memory stays"
)


def _pad(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    size = amounts.bytes_of(value)
    if size is None or size >= 1 << 64:
        raise click.BadParameter("give bytes, as 4096 or 16M")
    return size


def _amount(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> int | float | None:
    """Bytes (``64M``, ``1000000``) as int, or a share (``0.5``, ``50%``) as float."""
    if value is None:
        return None
    size = amounts.bytes_of(value)
    if size is not None:
        return size
    share = re.fullmatch(r"(\d*\.?\d+)(%?)", value, re.ASCII)
    ratio = float(share[1]) / (100 if share[2] else 1) if share else 2.0
    if ratio > 1:
        raise click.BadParameter("give bytes (64M), or a share (0.5 or 50%)")
    return ratio


@click.command("trim", short_help="What malloc_trim would give back; rehearsed; done and audited.")
@click.argument("target", metavar="PID|FILE")
@click.option(
    "--pad",
    "pad_bytes",
    default="0",
    show_default=True,
    callback=_pad,
    metavar="BYTES",
    help="malloc_trim's argument: what to leave free at the main arena's top (as 16M).",
)
@click.option(
    "--rehearse", is_flag=True, help="Run malloc_trim in a frozen copy and measure what it gives."
)
@click.option(
    "--apply", "apply_it", is_flag=True, help="Make the process call malloc_trim, and audit that."
)
@click.option(
    "--watch-refaults",
    "watch_s",
    type=options.Duration(1),
    metavar="SECONDS",
    help="With --apply: count for so long the page faults that follow.",
)
@click.option(
    "--repeat",
    "every_s",
    type=options.Duration(1),
    metavar="SECONDS",
    help="With --apply: again at this interval, until the process ends. A stopgap, no cure.",
)
@click.option(
    "--if-free-above",
    "threshold",
    callback=_amount,
    metavar="BYTES|RATIO",
    help="With --repeat: only while more is free and resident: 64M, or 0.5 of the arenas.",
)
@options.exe_option
@options.sample_option
@options.max_pause_option
@options.deadline_option
@form_options
def command(
    target: str,
    pad_bytes: int,
    rehearse: bool,
    apply_it: bool,
    watch_s: float | None,
    every_s: float | None,
    threshold: float | None,
    exe: Path | None,
    sample: int | None,
    max_pause_ms: float,
    deadline_s: float,
    form: Form,
) -> int:
    """Foretells what malloc_trim would give back to the kernel, arena by arena and to the page,
    what would stay and why, and what it costs.

    That reads only, and of a recording or a core file tells what would have been given back at that
    moment. --rehearse runs malloc_trim in a frozen copy of the process; --apply makes the process
    itself call it, without gdb, and measures what went away. Where no thread could do that safely
    it is refused (exit 7).
    """
    from allocscope.app.trim import TrimOptions

    looked_at = options.target_of(target)
    options.for_files(looked_at, sample=sample, exe=exe)
    options.for_processes(
        looked_at,
        "--rehearse" if rehearse else None,
        "--apply" if apply_it else None,
        "--watch-refaults" if watch_s is not None else None,
        "--repeat" if every_s is not None else None,
        "--if-free-above" if threshold is not None else None,
    )
    _fit_together(rehearse, apply_it, watch_s, every_s, threshold, form.output)
    wanted = TrimOptions(pad_bytes, deadline_s)
    now = time.time()
    if not isinstance(looked_at, int):
        from allocscope.app.trim_file import trim_of_file

        report = trim_of_file(looked_at, wanted, sample=sample, exe=exe)
    elif every_s is not None:
        return _repeat(looked_at, wanted, every_s, threshold, watch_s, form)
    else:
        pause_ns = options.nanoseconds(max_pause_ms)
        report = _once(looked_at, wanted, rehearse, apply_it, watch_s, pause_ns)

    def text(look: Look) -> str:
        from allocscope.render.trim import trim as draw

        return draw(report, look)

    return tell(report, SCHEMA, now, form, text)


def _fit_together(
    rehearse: bool,
    apply_it: bool,
    watch_s: float | None,
    every_s: float | None,
    threshold: float | None,
    output: Path | None,
) -> None:
    """Options that mean nothing without others are refused, not passed over."""
    if rehearse and apply_it:
        raise WrongUsage("--rehearse and --apply exclude each other", "Rehearse first.")
    if not apply_it and (watch_s is not None or every_s is not None):
        raise WrongUsage("--watch-refaults and --repeat belong to --apply", "Give --apply, too.")
    if every_s is None and threshold is not None:
        raise WrongUsage("--if-free-above belongs to --repeat", "Give --repeat SECONDS, too.")
    if every_s is not None and output is not None:
        raise WrongUsage("--repeat prints a line each time", "Redirect stdout instead of --output.")


def _once(
    pid: int,
    wanted: TrimOptions,
    rehearse: bool,
    apply_it: bool,
    watch_s: float | None,
    max_pause_ns: int,
) -> Report[TrimData]:
    if rehearse:
        from allocscope.app.trim_rehearse import rehearse as run

        return run(pid, wanted, max_pause_ns=max_pause_ns)
    if apply_it:
        from allocscope.app.trim_apply import apply

        return apply(pid, wanted, watch_s=watch_s)
    from allocscope.app.trim import trim

    return trim(pid, wanted)


def _repeat(
    pid: int,
    wanted: TrimOptions,
    every_s: float,
    threshold: float | None,
    watch_s: float | None,
    form: Form,
) -> int:
    """A line each time, until the process ends; the exit status is the worst of all looks."""
    from allocscope.app.trim_repeat import repeat

    click.echo(f"note: {STOPGAP}", err=True)
    worst = 0
    for now, outcome in repeat(
        pid, wanted, every_s=every_s, threshold=_threshold(threshold), watch_s=watch_s
    ):
        deliver(_line(now, outcome, form), None)
        worst = exits.worst((worst, _status(outcome)))
    click.echo(f"process {pid} has ended", err=True)
    return worst


def _threshold(amount: float | None) -> Threshold:
    from allocscope.app.trim_repeat import Threshold

    if isinstance(amount, float):
        return Threshold(above_ratio=amount)
    return Threshold(above_bytes=amount)


def _line(now: float, outcome: Outcome, form: Form) -> str:
    from allocscope.model.failure import Failure

    if not form.as_json:
        from allocscope.render.trim import line

        return line(now, outcome, form.exact_bytes)
    from allocscope.render import json

    if isinstance(outcome, Failure):
        return json.dumps(json.envelope_of_failure(outcome, SCHEMA, now))
    return json.dumps(json.envelope(outcome, SCHEMA, now))


def _status(outcome: Outcome) -> int:
    from allocscope.model.failure import Failure

    if isinstance(outcome, Failure):
        return outcome.exit_code
    return EXIT_PARTIAL if outcome.partial else 0
