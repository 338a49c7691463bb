"""``allocscope explain``: where the resident memory of a process is or was, and why."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from allocscope.cli import options
from allocscope.cli.answer import Form, form_options, tell
from allocscope.immutable import replace

if TYPE_CHECKING:
    from pathlib import Path

    from allocscope.model.history import History
    from allocscope.model.ledger import Explanation
    from allocscope.model.report import Report
    from allocscope.model.situation import Situation
    from allocscope.render.page import Look

SCHEMA = "explain"


@click.command("explain", short_help="Where the memory of a process is, why, and what to do.")
@click.argument("target", metavar="PID|FILE")
@click.option(
    "--html",
    "html_file",
    type=options.FilePath(dir_okay=False),
    metavar="FILE",
    help="Write it there too as one page for a browser, with a map of the heaps' pages.",
)
@options.exe_option
@options.sample_option
@options.deadline_option
@form_options
def command(
    target: str,
    html_file: Path | None,
    exe: Path | None,
    sample: int | None,
    deadline_s: float,
    form: Form,
) -> int:
    """Explains the resident memory of a process, running or recorded: every byte of it in one row
    of a ledger that adds up to RSS, the causes by weight, and what each remedy would give back. A
    core does not tell what was resident: of it, what the heap's structure shows.

    Reads only: a process is not stopped. `allocscope PID` and `allocscope FILE` are the same.
    """
    wanted = options.target_of(target)
    options.for_files(wanted, sample=sample, exe=exe)
    now = time.time()
    if not isinstance(wanted, int):
        from allocscope.app.file_kind import is_core

        if is_core(wanted, sample=sample, exe=exe):
            return _core(wanted, exe, deadline_s, html_file, form, now)
    report, found, series = _explained(wanted, sample, deadline_s, html_file is not None)
    if html_file is not None:
        from allocscope.cli.html_file import page_files, write_privately
        from allocscope.render.html import page

        write_privately(page(report, found, page_files(), now, series), html_file)

    def text(look: Look) -> str:
        from allocscope.render.explain import explain as draw

        return draw(report, look)

    return tell(report, SCHEMA, now, form, text)


def _core(
    path: Path,
    exe: Path | None,
    deadline_s: float,
    html_file: Path | None,
    form: Form,
    now: float,
) -> int:
    """The same of a core, which tells less."""
    from allocscope.app.explain import ExplainOptions
    from allocscope.app.explain_core import portrait_of_core

    asked = ExplainOptions(deadline_s=deadline_s, pages=html_file is not None)
    found = portrait_of_core(path, asked, exe=exe)
    if html_file is not None:
        from allocscope.cli.html_file import page_files, write_privately
        from allocscope.render.html_core import page_of_core

        page = page_of_core(found.report, found.heap, found.pages, page_files(), now)
        write_privately(page, html_file)

    def text(look: Look) -> str:
        from allocscope.render.explain_core import explain_core as draw

        return draw(found.report, look)

    return tell(found.report, SCHEMA, now, form, text)


def _explained(
    wanted: int | Path, sample: int | None, deadline_s: float, for_page: bool
) -> tuple[Report[Explanation], Situation, History | None]:
    """The answer and what it rests on; for a page of a recording, all its samples too."""
    from allocscope.app.explain import ExplainOptions, portrait

    asked = ExplainOptions(deadline_s=deadline_s, pages=for_page)
    if isinstance(wanted, int):
        return *portrait(wanted, asked), None
    from allocscope.app.explain_file import portrait_of_file

    report, found = portrait_of_file(wanted, asked, sample=sample)
    if not for_page:
        return report, found, None
    from allocscope.app.history import history

    series, caveats = history(wanted, shown=sample, deadline_s=deadline_s)
    return replace(report, caveats=report.caveats + caveats), found, series
