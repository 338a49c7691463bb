"""What several verbs share: the common options, and what a TARGET is."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from allocscope.errors import WrongUsage

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


def json_option(function: F) -> F:
    return click.option(
        "--json", "as_json", is_flag=True, help="One JSON object on stdout, nothing else."
    )(function)


def output_options(function: F) -> F:
    """--json, --output, --debug."""
    function = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        help="Print a traceback with every error (or set ALLOCSCOPE_DEBUG=1).",
    )(function)
    function = click.option(
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Write the answer there instead of to stdout.",
    )(function)
    return json_option(function)


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
    """A TARGET as a pid. WrongUsage for everything else: this version reads live processes only."""
    if target.isascii() and target.isdigit():
        return int(target)
    raise WrongUsage(
        f"{target} is not a pid, and this version cannot read cores or recordings yet",
        "Give a pid (digits); to choose processes by name use `arenas --name RE`.",
    )
