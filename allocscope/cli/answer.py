"""A report as the reader wants it: a page or JSON, on stdout or in a file.

Rule: what draws pages is loaded only where a page is wanted.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from allocscope.cli.options import output_options, table_options
from allocscope.cli.output import colour, deliver, width
from allocscope.errors import EXIT_PARTIAL
from allocscope.immutable import immutable

if TYPE_CHECKING:
    from pathlib import Path

    from allocscope.model.report import Report
    from allocscope.render.page import Look

Data = TypeVar("Data")
ROWS = 20


@immutable
class Form:
    """How the reader wants it. ``output`` None: on stdout."""

    as_json: bool = False
    no_color: bool = False
    exact_bytes: bool = False
    output: Path | None = None

    def look(self, rows: int | None = ROWS) -> Look:
        from allocscope.render.page import Look

        colours = colour(self.no_color, self.output)
        return Look(width(self.output), colours, self.exact_bytes, rows)


def form_options(function: Callable[..., int]) -> Callable[..., int]:
    """--no-color, --bytes, --json, --output, --debug, handed on as ``form``."""

    @functools.wraps(function)
    def gathered(
        *arguments: Any,
        as_json: bool,
        no_color: bool,
        exact_bytes: bool,
        output: Path | None,
        **others: Any,
    ) -> int:
        return function(*arguments, form=Form(as_json, no_color, exact_bytes, output), **others)

    return table_options(output_options(gathered))


def tell(
    report: Report[Data],
    schema: str,
    when: float,
    form: Form,
    text: Callable[[Look], str],
    rows: int | None = ROWS,
) -> int:
    """Delivers the report, begun at ``when`` (Unix time), as JSON of ``schema`` or as the page that
    ``text`` draws, of at most ``rows`` rows a table (None: all). Returns the exit status.

    WrongUsage when the file cannot be written."""
    if form.as_json:
        from allocscope.render import json

        deliver(json.dumps(json.envelope(report, schema, when)), form.output)
    else:
        deliver(text(form.look(rows)), form.output)
    return EXIT_PARTIAL if report.partial else 0
