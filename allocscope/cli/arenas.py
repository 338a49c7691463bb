"""``allocscope arenas``: the table of arenas of one process or several, running or recorded.

One target: its error is the command's error. Several: each gets its answer or its error in its own
row, the deadline is for all of them together, and the exit status is the worst.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from allocscope.cli import exits, options
from allocscope.cli.output import colour, deliver, width
from allocscope.errors import EXIT_PARTIAL, AllocscopeError, WrongUsage
from allocscope.immutable import immutable

if TYPE_CHECKING:
    from pathlib import Path

    from allocscope.model.asked import AskedData
    from allocscope.model.failure import Failure
    from allocscope.model.heap import ArenasData
    from allocscope.model.report import Report

    Answer = Report[ArenasData] | Report[AskedData]
    Outcome = Answer | Failure

SCHEMA = "arenas"


@immutable
class Wish:
    """What is wanted of each target. Times in the units of their names."""

    exact: bool
    deadline_s: float
    frozen: bool
    ask_glibc: bool
    max_pause_ns: int
    sample: int | None
    exe: Path | None


@click.command("arenas", short_help="Per arena: what is resident, live, free, trimmable, pinned.")
@click.argument("targets", nargs=-1, metavar="[PID|FILE]...")
@click.option("--name", metavar="RE", help="All processes whose name or executable matches.")
@click.option("--cgroup", metavar="PATH", help="All processes of this cgroup and those below it.")
@click.option(
    "--by",
    type=click.Choice(["heap", "size", "thread"]),
    default=None,
    help="Rows per heap, per chunk size or per thread instead of per arena.",
)
@click.option(
    "--rows",
    default="20",
    show_default=True,
    callback=options.rows,
    metavar="N|all",
    help="Rows of the table; the rest is summed.",
)
@click.option("--exact", is_flag=True, help="Read smaps also where RSS is above 1 GiB.")
@click.option("--snapshot", is_flag=True, help="Read a frozen copy: for a process that is busy.")
@click.option("--ask-glibc", is_flag=True, help="Let glibc itself answer in a frozen copy too.")
@options.exe_option
@options.sample_option
@options.max_pause_option
@options.deadline_option
@options.table_options
@options.output_options
def command(
    targets: tuple[str, ...],
    name: str | None,
    cgroup: str | None,
    by: str | None,
    rows: int | None,
    exact: bool,
    snapshot: bool,
    ask_glibc: bool,
    sample: int | None,
    exe: Path | None,
    max_pause_ms: float,
    deadline_s: float,
    no_color: bool,
    exact_bytes: bool,
    as_json: bool,
    output: Path | None,
) -> int:
    """Shows the malloc arenas of processes, running, recorded or dead (a core file): what each
    obtained from the kernel, how much of it is resident, live, free but resident, and what
    malloc_trim would release.

    Reads only: a process is not stopped, unless --snapshot or --ask-glibc asks for a frozen copy.
    """
    wanted = [options.target_of(target) for target in targets]
    chosen = _chosen(name, cgroup)
    wanted += [pid for pid in chosen or () if pid not in wanted]
    if not wanted:
        raise WrongUsage("nothing to look at", "Give a PID, a FILE, --name RE or --cgroup PATH.")
    _fit_together(wanted, snapshot or ask_glibc or exact, sample, exe)
    wish = Wish(
        exact=exact,
        deadline_s=deadline_s,
        frozen=snapshot or ask_glibc,
        ask_glibc=ask_glibc,
        max_pause_ns=options.nanoseconds(max_pause_ms),
        sample=sample,
        exe=exe,
    )
    several = chosen is not None or len(wanted) > 1
    answers = (
        _each(wanted, wish) if several else [(time.time(), _read(wanted[0], wish, deadline_s))]
    )
    outcomes = [outcome for _, outcome in answers]
    if as_json:
        deliver(_json(answers, several), output)
    else:
        from allocscope.render.page import Look
        from allocscope.render.table import arenas as table

        look = Look(width(output), colour(no_color, output), exact_bytes, rows, by or "")
        deliver(table(outcomes, look), output)
    return exits.worst(map(_status, outcomes))


def _chosen(name: str | None, cgroup: str | None) -> list[int] | None:
    """The processes that --name and --cgroup select (both given: those that meet both)."""
    if name is None and cgroup is None:
        return None
    from allocscope.proc import select

    return select.pids(name=name, cgroup=cgroup)


def _fit_together(
    targets: Sequence[int | Path], of_processes: bool, sample: int | None, exe: Path | None
) -> None:
    """Options that mean nothing for a target are refused, not passed over."""
    files = [target for target in targets if not isinstance(target, int)]
    if files and of_processes:
        raise WrongUsage(
            f"{files[0]} is a file: --exact, --snapshot and --ask-glibc need a running process",
            "Give them when recording: `allocscope record --snapshot`.",
        )
    if sample is not None and not files:
        raise WrongUsage("--sample chooses a sample of a recording", "Give a FILE.")
    if exe is not None and len(files) != 1:
        raise WrongUsage("--exe names the program of one core file", "Give one core file with it.")


def _read(target: int | Path, wish: Wish, deadline_s: float) -> Answer:
    if not isinstance(target, int):
        return _read_file(target, wish, deadline_s)
    from allocscope.app.arenas import ArenasOptions, arenas

    wanted = ArenasOptions(exact=wish.exact, deadline_s=deadline_s)
    if not wish.frozen:
        return arenas(target, wanted)
    if wish.ask_glibc:
        from allocscope.app.arenas_asked import arenas_asked

        return arenas_asked(target, wanted, max_pause_ns=wish.max_pause_ns)
    from allocscope.app.arenas_frozen import arenas_frozen

    return arenas_frozen(target, wanted, ask_glibc=False, max_pause_ns=wish.max_pause_ns)


def _read_file(path: Path, wish: Wish, deadline_s: float) -> Report[ArenasData]:
    from allocscope.app.file_kind import is_core

    if is_core(path, sample=wish.sample, exe=wish.exe):
        from allocscope.app.arenas_core import arenas_of_core

        return arenas_of_core(path, exe=wish.exe, deadline_s=deadline_s)
    from allocscope.app.arenas_file import arenas_of_file

    return arenas_of_file(path, sample=wish.sample, deadline_s=deadline_s).report


def _each(targets: Sequence[int | Path], wish: Wish) -> list[tuple[float, Outcome]]:
    """Every target's answer or failure, with the time when it was taken."""
    from allocscope.model.failure import Failure

    end = time.monotonic() + wish.deadline_s
    answers: list[tuple[float, Outcome]] = []
    for target in targets:
        now, left = time.time(), end - time.monotonic()
        pid, name = _named(target)
        if left <= 0:
            message = f"not read: the deadline of {wish.deadline_s:g} s had passed"
            late = Failure(pid, name, message, "Raise --deadline.", EXIT_PARTIAL)
            answers.append((now, late))
            continue
        try:
            answers.append((now, _read(target, wish, left)))
        except AllocscopeError as error:
            failure = Failure(pid, name, error.message, error.hint, error.exit_code)
            answers.append((now, failure))
    return answers


def _named(target: int | Path) -> tuple[int | None, str]:
    """What stands in the row of a target that cannot be read."""
    if not isinstance(target, int):
        return None, target.name
    from allocscope.proc import select

    return target, select.comm(target)


def _json(answers: Sequence[tuple[float, Outcome]], several: bool) -> str:
    from allocscope.model.failure import Failure
    from allocscope.render import json

    objects = [
        json.envelope_of_failure(outcome, SCHEMA, when)
        if isinstance(outcome, Failure)
        else json.envelope(outcome, SCHEMA, when)
        for when, outcome in answers
    ]
    if not several:
        return json.dumps(objects[0])
    return json.dumps(json.envelope_of_many(objects, SCHEMA, answers[0][0]))


def _status(outcome: Outcome) -> int:
    from allocscope.model.failure import Failure

    if isinstance(outcome, Failure):
        return outcome.exit_code
    return EXIT_PARTIAL if outcome.partial else 0
