"""``allocscope check``: limits for CI, held against a process or a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from allocscope.cli import amounts, options
from allocscope.cli.answer import Form, form_options, tell
from allocscope.cli.output import deliver
from allocscope.errors import AllocscopeError, WrongUsage

if TYPE_CHECKING:
    from allocscope.render.page import Look

SCHEMA = "check"
EXIT_EXCEEDED = 1


@click.command("check", short_help="Limits for CI: exit 1 where one is exceeded, and why.")
@click.argument("target", metavar="PID|FILE")
@click.option(
    "--max-retained",
    callback=amounts.size,
    metavar="SIZE",
    help="Resident bytes that malloc holds free.",
)
@click.option(
    "--max-retained-ratio", callback=amounts.ratio, metavar="RATIO", help="The same, of RSS."
)
@click.option(
    "--max-trimmable",
    callback=amounts.size,
    metavar="SIZE",
    help="What malloc_trim(0) would release.",
)
@click.option(
    "--max-arenas", type=click.IntRange(min=1), metavar="N", help="Arenas, main included."
)
@click.option(
    "--max-footprint",
    callback=amounts.size,
    metavar="SIZE",
    help="Memory that the process is answerable for, as in `allocscope footprint`.",
)
@click.option(
    "--max-unexplained-ratio",
    callback=amounts.ratio,
    metavar="RATIO",
    help="The part of RSS that nobody can be shown to own.",
)
@click.option(
    "--junit",
    type=options.FilePath(dir_okay=False),
    metavar="FILE",
    help="Write a JUnit report there as well, a test case for each limit; also where the target "
    "cannot be read.",
)
@options.exe_option
@options.sample_option
@options.deadline_option
@form_options
def command(
    target: str,
    max_retained: int | None,
    max_retained_ratio: float | None,
    max_trimmable: int | None,
    max_arenas: int | None,
    max_footprint: int | None,
    max_unexplained_ratio: float | None,
    junit: Path | None,
    exe: Path | None,
    sample: int | None,
    deadline_s: float,
    form: Form,
) -> int:
    """Holds limits against a running process, a recording or a core file. Ends with 0 where all are
    kept, with 1 where one is exceeded, and says which, why, and what can be done; with 6 where
    none is exceeded but the reading is incomplete.

    A SIZE is 64MiB, 1.5GiB, 200K or a number of bytes; a RATIO is 0.2 or 20%. Reads only: the
    process is not stopped.
    """
    from allocscope.model.gate import Limit, LimitKey

    given: dict[LimitKey, int | float | None] = {
        "max-retained": max_retained,
        "max-retained-ratio": max_retained_ratio,
        "max-trimmable": max_trimmable,
        "max-arenas": max_arenas,
        "max-footprint": max_footprint,
        "max-unexplained-ratio": max_unexplained_ratio,
    }
    limits = tuple(Limit(key, most) for key, most in given.items() if most is not None)
    if not limits:
        raise WrongUsage(
            "there is nothing to check", "Give a limit: --max-retained 64MiB, --max-arenas 8, …"
        )
    wanted = options.target_of(target)
    options.for_files(wanted, sample=sample, exe=exe)
    from allocscope.app.check import CheckOptions, check

    now = time.time()
    try:
        report = check(wanted, CheckOptions(limits, sample=sample, exe=exe, deadline_s=deadline_s))
    except AllocscopeError as error:
        if junit is not None:
            from allocscope.render.junit import unreadable

            deliver(unreadable(target, limits, error, time.time() - now, now), junit)
        raise
    if junit is not None:
        from allocscope.render.junit import junit as xml

        deliver(xml(report, now), junit)

    def text(look: Look) -> str:
        from allocscope.render.check import check as draw

        return draw(report, look)

    status = tell(report, SCHEMA, now, form, text)
    return EXIT_EXCEEDED if report.data.exceeded_count else status
