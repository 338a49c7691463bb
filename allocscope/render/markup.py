"""HTML out of parts: elements, escaped text, tables.

Rules: a string becomes HTML in one place only, ``text``, which makes control characters visible and
escapes what HTML would take for its own; what is HTML already has the type Html, and nothing else
is ever joined to it. Attribute names are keywords (``class_``, ``data_sort``).
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from allocscope.immutable import immutable
from allocscope.render.text import clean


@immutable
class Html:
    """Text that is HTML."""

    source: str


Part = Html | str
NOTHING = Html("")


def text(foreign: str) -> Html:
    """Any string, whoever made it, as what a reader sees."""
    return Html(escape(clean(foreign)))


def prose(sentence: str) -> Html:
    """A sentence of ours, in which commands stand between backquotes."""
    pieces = sentence.split("`")
    return join([tag("code", piece) if n % 2 else piece for n, piece in enumerate(pieces)])


def join(parts: Sequence[Part]) -> Html:
    return Html("".join(_html(part).source for part in parts))


def tag(name: str, /, *parts: Part, **attributes: str | int | float) -> Html:
    """An element. ``class_="x"`` is the attribute class, ``data_sort=1`` data-sort."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(str(value)).source}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{told}>{join(parts).source}</{name}>")


def _html(part: Part) -> Html:
    return text(part) if isinstance(part, str) else part


@immutable
class Cell:
    """A cell of a table: what it shows, and the number that it sorts by, if it is one."""

    shown: Part
    number: float | None = None


@immutable
class Heading:
    """A heading of a table. ``sorted``: "ascending" or "descending" where the rows come so."""

    title: str
    hint: str = ""
    sorted: str = ""


def table(
    caption: str, headings: Sequence[Heading], rows: Sequence[Sequence[Cell]], *, foot: int = 0
) -> Html:
    """A table. A column is one of numbers if its first cell is; the first column names the row and
    stays at the left in any case. The last ``foot`` rows are sums."""
    numbers = [n > 0 and cell.number is not None for n, cell in enumerate(rows[0])] if rows else []
    head = [
        tag(
            "th",
            heading.title,
            scope="col",
            **({"title": heading.hint} if heading.hint else {}),
            **({"aria_sort": heading.sorted} if heading.sorted else {}),
            **({"class_": "n"} if number else {}),
        )
        for heading, number in zip(headings, numbers or [False] * len(headings), strict=True)
    ]
    body = [_row(row, numbers) for row in rows[: len(rows) - foot]]
    sums = [_row(row, numbers) for row in rows[len(rows) - foot :]]
    parts = [
        tag("caption", caption),
        tag("thead", tag("tr", *head)),
        tag("tbody", *body),
        tag("tfoot", *sums) if sums else NOTHING,
    ]
    return tag("div", tag("table", *parts), class_="scroll", tabindex=0)


def _row(row: Sequence[Cell], numbers: Sequence[bool]) -> Html:
    cells = []
    for cell, number in zip(row, numbers, strict=True):
        attributes: dict[str, str | float] = {"class_": "n"} if number else {}
        if cell.number is not None:
            attributes["data_sort"] = cell.number
        cells.append(tag("td", cell.shown, **attributes))
    return tag("tr", *cells)
