"""What several verbs share: the common options, and what a TARGET is."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from allocscope.errors import WrongUsage

if TYPE_CHECKING:
    from pathlib import Path

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_DEADLINE_S = 30.0
DEFAULT_MAX_PAUSE_MS = 100.0
DAY_S = 86400.0


class Duration(click.FloatRange):
    """A time above 0 and up to a day, in units of ``unit_s`` seconds."""

    def __init__(self, unit_s: float) -> None:
        super().__init__(min=0, min_open=True, max=DAY_S / unit_s)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):  # lies outside of no range
            self.fail(f"{value} is not a number", param, ctx)
        return number


class FilePath(click.Path):
    """A click.Path that becomes a pathlib.Path, which loads much and so is imported only where a
    path is given."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Path:
        from pathlib import Path

        return Path(os.fsdecode(super().convert(value, param, ctx)))


def json_option(function: F) -> F:
    return click.option(
        "--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else."
    )(function)


def debug_option(function: F) -> F:
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        help="Print a traceback with every error (or set ALLOCSCOPE_DEBUG=1).",
    )(function)


def output_options(function: F) -> F:
    """--json, --output, --debug."""
    return json_option(output_option(debug_option(function)))


def output_option(function: F) -> F:
    return click.option(
        "--output",
        type=FilePath(dir_okay=False),
        metavar="FILE",
        help="Write the answer there instead of to stdout.",
    )(function)


def table_options(function: F) -> F:
    """--no-color, --bytes."""
    function = click.option(
        "--bytes", "exact_bytes", is_flag=True, help="Exact bytes instead of KiB, MiB, GiB."
    )(function)
    return click.option(
        "--no-color", is_flag=True, help="No colours (also: NO_COLOR, or not a terminal)."
    )(function)


def deadline_option(function: F) -> F:
    return click.option(
        "--deadline",
        "deadline_s",
        type=Duration(1),
        default=DEFAULT_DEADLINE_S,
        show_default=True,
        metavar="SECONDS",
        help="Give up after this time.",
    )(function)


def max_pause_option(function: F) -> F:
    return click.option(
        "--max-pause",
        "max_pause_ms",
        type=Duration(1e-3),
        default=DEFAULT_MAX_PAUSE_MS,
        show_default=True,
        metavar="MS",
        help="Refuse when the forecast says that the target would stand still for longer.",
    )(function)


def nanoseconds(milliseconds: float) -> int:
    return round(milliseconds * 1e6)


def pid_of(target: str) -> int:
    """A TARGET that must be a process, as a pid. WrongUsage for everything else."""
    found = target_of(target)
    if isinstance(found, int):
        return found
    raise WrongUsage(
        f"{target} is not a pid, and this verb needs a running process",
        "Give a pid (digits); files are read by `arenas`, `explain`, `map`, `pins`, `trim`, "
        "`tune`, `check`, `diff`, `lazyfree` and `footprint`.",
    )


def target_of(target: str) -> int | Path:
    """A TARGET: digits are a pid, anything else is a file. WrongUsage for nothing at all."""
    if not target:
        raise WrongUsage(
            "a target is empty", "Give a pid or a FILE, or choose by name: `arenas --name RE`."
        )
    if target.isascii() and target.isdigit():
        return int(target)
    from pathlib import Path

    return Path(target)


def sample_option(function: F) -> F:
    return click.option(
        "--sample",
        type=click.IntRange(min=1),
        metavar="N",
        help="Which sample of a recording, counted from 1; the last by default.",
    )(function)


def exe_option(function: F) -> F:
    return click.option(
        "--exe",
        type=FilePath(exists=True, dir_okay=False),
        metavar="PROGRAM",
        help="The program that a core file is of.",
    )(function)


def for_files(target: int | Path, *, sample: int | None, exe: Path | None = None) -> None:
    """WrongUsage for options of files with a running process."""
    if isinstance(target, int) and (sample is not None or exe is not None):
        raise WrongUsage(
            f"{target} is a running process: --sample and --exe are for files", "Leave them out."
        )


def for_processes(target: int | Path, *given: str | None) -> None:
    """WrongUsage for options of running processes (those that are ``given``) with a file."""
    named = [option for option in given if option]
    if not isinstance(target, int) and named:
        what = "needs" if len(named) == 1 else "need"
        raise WrongUsage(
            f"{target} is a file: {', '.join(named)} {what} a running process",
            "Leave it out, or give a pid." if len(named) == 1 else "Leave them out, or give a pid.",
        )


def rows(_context: click.Context, _parameter: click.Parameter, value: str) -> int | None:
    """The callback of --rows: a number, or None for all."""
    if value == "all":
        return None
    if value.isdecimal() and int(value) > 0:
        return int(value)
    raise click.BadParameter("give a number above 0, or all")
