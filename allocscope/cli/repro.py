"""``allocscope repro``: run a program whose truth is known, and see what allocscope says of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allocscope.cli import options
from allocscope.cli.output import colour, deliver, width
from allocscope.errors import WrongUsage

if TYPE_CHECKING:
    from allocscope.model.repro import ReproResult

SCHEMA = "repro"
EXIT_WRONG = 1


@click.command("repro", short_help="Run fragmentation fixtures with known truth, and compare.")
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="Run every fixture.")
@click.option("--check", is_flag=True, help="End with 1 when a figure differs from the truth.")
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, metavar="N")
@click.option("--no-color", is_flag=True, help="No colours (also: NO_COLOR, or not a terminal).")
@options.output_options
def command(
    name: str | None,
    every: bool,
    check: bool,
    seed: int,
    no_color: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Builds and runs a fixture, a C program with one pathology that knows what it did, and shows
    what allocscope says of it beside what is true. Without a NAME: lists the fixtures.
    """
    from allocscope.lab import repro

    if name is not None and every:
        raise WrongUsage("a NAME and --all exclude each other", "Give one of them.")
    if check and name is None and not every:
        raise WrongUsage("nothing to check", "Give a NAME or --all.")
    now = time.time()
    found = repro.list_fixtures()
    names = [fixture.name for fixture in found] if every else [name] if name else []
    done = [_run(one, seed) for one in names]
    if as_json:
        from allocscope.render import json

        data = {"fixtures": json.plain(found), "results": [_object(r, now) for r in done]}
        deliver(json.dumps(json.wrap(SCHEMA, now, data=data)), output)
    else:
        from allocscope.render import repro as pages
        from allocscope.render.page import Look

        look = Look(width(output), colour(no_color, output))
        deliver(pages.results(done, look) if done else pages.fixtures(found, look), output)
    return EXIT_WRONG if check and not all(result.ok for result in done) else 0


def _run(name: str, seed: int) -> ReproResult:
    from allocscope.app.arenas import ArenasOptions, arenas
    from allocscope.lab import repro
    from allocscope.render.sentences import headline

    return repro.reproduce(name, lambda pid: arenas(pid, ArenasOptions()), headline, seed=seed)


def _object(result: ReproResult, now: float) -> dict[str, Any]:
    """A result for JSON; ``answer`` is what `arenas --json` would have said."""
    from allocscope.render import json

    return {
        "fixture": result.fixture,
        "seed": result.seed,
        "headline": result.headline,
        "ok": result.ok,
        "rows": json.plain(result.rows),
        "answer": json.envelope(result.report, "arenas", now),
    }
