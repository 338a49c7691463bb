"""``allocscope footprint``: what processes hold, by every measure, one by one and as trees."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from allocscope.cli import exits, options
from allocscope.cli.output import colour, deliver, width
from allocscope.errors import EXIT_PARTIAL, AllocscopeError, NoSuchProcess, WrongUsage

if TYPE_CHECKING:
    from allocscope.app.footprint import Selection
    from allocscope.model.footprint import FootprintAnswer

SCHEMA = "footprint"
SORTS = (
    "footprint", "tree", "rss", "peak", "pss", "uss", "dirty", "swap", "lazyfree", "tables",
    "retained", "pid", "name",
)  # fmt: skip


@click.command("footprint", short_help="RSS, PSS, USS, swap and one honest number per process.")
@click.argument("targets", nargs=-1, metavar="[PID]...|FILE")
@click.option("--tree", "tree", metavar="PID", help="This process and all its descendants.")
@click.option("--name", metavar="RE", help="All processes whose name or executable matches.")
@click.option("--cgroup", metavar="PATH", help="All processes of this cgroup and those below it.")
@click.option("--all", "everyone", is_flag=True, help="Every process of this machine.")
@click.option(
    "--retained",
    is_flag=True,
    help="Also what glibc's malloc holds free in each, from the headers of its free chunks.",
)
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default=None,
    help="The column to sort by (footprint; with --retained: retained).",
)
@click.option(
    "--rows",
    default="20",
    show_default=True,
    callback=options.rows,
    metavar="N|all",
    help="Rows of the table; the rest is summed.",
)
@options.sample_option
@options.table_options
@options.output_options
def command(
    targets: tuple[str, ...],
    tree: str | None,
    name: str | None,
    cgroup: str | None,
    everyone: bool,
    retained: bool,
    sort: str | None,
    rows: int | None,
    sample: int | None,
    no_color: bool,
    exact_bytes: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Shows what processes hold: RSS and its peak, PSS, USS, private dirty, swap, lazily freed
    memory, page tables, and one number called footprint: what the process is answerable for and
    the kernel cannot simply drop, wherever it lies.

    Of a recording: the figures of its process at that moment.

    Reads only; docs/which-number.md says which number counts which memory.
    """
    if sort == "retained" and not retained:
        raise WrongUsage("--sort retained needs --retained", "Give both.")
    now = time.time()
    file = _file(targets, tree, name, cgroup, everyone, sample)
    if file is not None:
        from allocscope.app.footprint_file import footprint_of_file

        answer = footprint_of_file(file, sample=sample, retained=retained)
    else:
        from allocscope.app.footprint import footprint
        from allocscope.cli.progress import progress

        selection = _selection(targets, tree, name, cgroup, everyone)
        with progress("reading processes", wanted=bool(selection.chosen)) as show:
            answer = footprint(selection, retained=retained, progress=show)
        _raise_for_only_one(selection, answer)
    by = sort or ("retained" if retained else "footprint")
    deliver(
        _json(answer, by, now)
        if as_json
        else _text(answer, by, retained, no_color, exact_bytes, rows, output),
        output,
    )
    return _status(answer)


def _file(
    targets: tuple[str, ...],
    tree: str | None,
    name: str | None,
    cgroup: str | None,
    everyone: bool,
    sample: int | None,
) -> Path | None:
    """The file that is meant, None for processes. WrongUsage for both."""
    wanted = [options.target_of(target) for target in targets]
    files = [target for target in wanted if not isinstance(target, int)]
    if not files:
        if sample is not None:
            raise WrongUsage("--sample chooses a sample of a recording", "Give a FILE.")
        return None
    options.for_processes(
        files[0],
        "--tree" if tree is not None else None,
        "--name" if name is not None else None,
        "--cgroup" if cgroup is not None else None,
        "--all" if everyone else None,
    )
    if len(wanted) > 1:
        raise WrongUsage(
            f"{files[0]} is a file: it is looked at by itself", "Give one FILE and nothing else."
        )
    return files[0]


def _selection(
    targets: tuple[str, ...], tree: str | None, name: str | None, cgroup: str | None, everyone: bool
) -> Selection:
    """Who is meant. WrongUsage for nobody, NoSuchProcess where a search finds nobody."""
    from allocscope.app import footprint as app
    from allocscope.proc import select

    pids = tuple(dict.fromkeys(options.pid_of(target) for target in targets))
    if everyone and (pids or tree or name is not None or cgroup is not None):
        raise WrongUsage("--all is everybody already", "Leave --all or the others out.")
    chosen: tuple[int, ...] = ()
    if everyone:
        chosen = app.everyone()
    if tree is not None:
        chosen += app.tree_of(options.pid_of(tree))
    if name is not None or cgroup is not None:
        chosen += tuple(select.pids(name=name, cgroup=cgroup))
    if not pids and not chosen:
        raise WrongUsage(
            "nothing to look at", "Give a PID, --tree PID, --name RE, --cgroup PATH or --all."
        )
    return app.Selection(pids, tuple(pid for pid in dict.fromkeys(chosen) if pid not in pids))


def _raise_for_only_one(selection: Selection, answer: FootprintAnswer) -> None:
    """The error of the only target is the command's error."""
    if len(selection.pids) == 1 and not selection.chosen and answer.data.failed:
        [failure] = answer.data.failed
        error = AllocscopeError(failure.message, failure.hint)
        error.exit_code = failure.exit_code
        raise error


def _text(
    answer: FootprintAnswer,
    sort: str,
    retained: bool,
    no_color: bool,
    exact_bytes: bool,
    rows: int | None,
    output: Path | None,
) -> str:
    from allocscope.render import footprint as pages
    from allocscope.render.page import Look

    look = Look(width(output), colour(no_color, output), exact_bytes, rows)
    return pages.footprint(answer, sort, retained, look)


def _json(answer: FootprintAnswer, sort: str, now: float) -> str:
    from allocscope.render import json
    from allocscope.render.footprint import ordered

    data = json.plain(answer.data)
    data["rows"] = json.plain(ordered(answer.data.rows, sort))
    when = now if answer.captured_at is None else answer.captured_at
    process, method = answer.process, answer.method
    told = json.wrap(
        SCHEMA, when, data=data, process=process, method=method, caveats=answer.caveats
    )
    return json.dumps(told)


def _status(answer: FootprintAnswer) -> int:
    codes = [failure.exit_code for failure in answer.data.failed]
    if any(caveat.partial for caveat in answer.caveats):
        codes.append(EXIT_PARTIAL)
    if not answer.data.rows and not codes:
        codes.append(NoSuchProcess.exit_code)
    return exits.worst(codes)
