"""The group of verbs, each imported only when it is called, and the one place where errors become
exit statuses.

Rules: an AllocscopeError is the user's business: message, hint, its exit code. Anything else that
escapes is our defect: exit 10 and what to report, with a traceback only when asked for. Ctrl-C
unwinds everything (what must be cleaned up is cleaned up on the way) and ends with 130.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from allocscope.cli.exits import INTERRUPTED
from allocscope.errors import AllocscopeError, InternalError
from allocscope.render.text import clean
from allocscope.version import VERSION

DEFAULT_VERB = "explain"
VERBS = (
    "arenas",
    "ask",
    "check",
    "diff",
    "doctor",
    "explain",
    "footprint",
    "lazyfree",
    "map",
    "pins",
    "record",
    "repro",
    "trim",
    "tune",
    "watch",
)
DEBUG = "ALLOCSCOPE_DEBUG"
REPORT = (
    "This is a defect of allocscope: please report it, with the output of the same command with "
    "--debug and that of `allocscope doctor`."
)


class Verbs(click.Group):
    """A group whose commands live in ``allocscope.cli.VERB``, as attribute ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"allocscope.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and _is_target(args[0]):
            args = [DEFAULT_VERB, *args]
        return super().resolve_command(ctx, args)


def _is_target(word: str) -> bool:
    """A pid, or a file: one that is there, or that can be nothing else."""
    if "/" in word or (word.isascii() and word.isdigit()):
        return True
    from pathlib import Path  # loads much, and no verb comes here

    return Path(word).is_file()


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, "-V", "--version", prog_name="allocscope")
def allocscope() -> None:
    """Explains, from outside, why a Linux process holds more memory than its program believes.

    It reads a running process that uses glibc malloc: no preparation, no debug symbols, and
    unless an option asks for it the process is never stopped. `allocscope PID` is `explain PID`,
    and `allocscope FILE` is `explain FILE`.
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs the command (None: with the arguments of this process) and returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debugging = "--debug" in words or os.environ.get(DEBUG, "") not in ("", "0")
    try:
        status: Any = allocscope.main(args=words, prog_name="allocscope", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return INTERRUPTED
    except AllocscopeError as error:
        return refused(error, debugging)
    except Exception as error:
        what = f"allocscope: internal error: {type(error).__name__}: {error}"
        _tell(what, REPORT, error, debugging)
        return InternalError.exit_code
    return status if isinstance(status, int) else 0


def refused(error: AllocscopeError, debugging: bool = False) -> int:
    """Tells the user what is in the way and what to do about it; returns the exit status."""
    _tell(f"allocscope: {error.message}", error.hint, error, debugging)
    return error.exit_code


def _tell(what: str, hint: str, error: Exception, debugging: bool) -> None:
    """The error on stderr: what happened, and below it what to do about it."""
    if debugging:
        import traceback

        _say("".join(traceback.format_exception(error)))
    _say(what)
    if hint:
        _say(hint, indent="  ")


def _say(text: str, indent: str = "") -> None:
    for line in text.splitlines():
        click.echo(indent + clean(line), err=True)
