"""The page that tables are written on: how wide, how colourful, how exact.

Rules: nothing is asked of the terminal or the environment here; whoever calls has done so.
Foreign text reaches rich only as Text, never as markup.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from allocscope.immutable import immutable
from allocscope.model.report import Caveat
from allocscope.render.columns import Fitted
from allocscope.render.text import clean

SEPARATOR = " · "
_WITH_UNIT = re.compile(r"(?<=\d) (?=(?:%|[KMGT]iB|bytes?|ns|µs|ms|s)(?![\w]))")
_JOINED = "\ue000"
"""Stands for a blank at which no line is broken while lines are made (a private-use character: rich
breaks at a no-break space)."""


@immutable
class Look:
    """How the reader wants it. ``rows`` None: all. ``by``: "", "heap", "size" or "thread"."""

    width: int = 100
    colour: bool = False
    exact_bytes: bool = False
    rows: int | None = 20
    by: str = ""


class Page:
    """Collects what is printed and gives it back as one string."""

    def __init__(self, look: Look) -> None:
        self.look = look
        self._sheet = io.StringIO()
        self._console = self._of_width(look.width)

    def _of_width(self, width: int) -> Console:
        return Console(
            file=self._sheet,
            width=width,
            height=25,
            color_system="standard" if self.look.colour else None,
            force_terminal=self.look.colour,
            no_color=not self.look.colour,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
            _environ={},
        )

    def line(self, text: str, style: str = "", hanging: int = 0) -> None:
        """One paragraph, wrapped at words, but not between a number and its unit; following lines
        are indented by ``hanging``."""
        head, rest = text[:hanging], _WITH_UNIT.sub(_JOINED, text[hanging:])
        for number, part in enumerate(Text(rest).wrap(self._console, self.look.width - hanging)):
            start = head if number == 0 else " " * hanging
            told = start + part.plain.replace(_JOINED, " ").rstrip()
            self._console.print(Text(told, style=style))

    def blank(self) -> None:
        self._console.print()

    def heading(self, text: str) -> None:
        self._console.print(Text(text, style="bold"))

    def items(self, items: Sequence[str], style: str = "") -> None:
        """Short items side by side, as many as a line holds; an item is not broken."""
        lines: list[str] = []
        for item in items:
            if lines and cell_len(lines[-1]) + len(SEPARATOR) + cell_len(item) <= self.look.width:
                lines[-1] += SEPARATOR + item
            else:
                lines.append(item)
        for line in lines:
            self.line(line, style)

    def table(self, fitted: Fitted) -> None:
        """A table, which may need more columns than the page has: it is never cut."""
        self._of_width(max(self.look.width, fitted.width)).print(fitted.grid)

    def caveats(self, caveats: Sequence[Caveat]) -> None:
        """What the reader must know, below a blank line; nothing where there is none."""
        if not caveats:
            return
        self.blank()
        for caveat in sorted(caveats, key=lambda c: not c.partial):
            label, style = ("PARTIAL", "bold red") if caveat.partial else ("note", "yellow")
            self.line(f"{label}: {clean(caveat.message)} [{clean(caveat.code)}]", style)

    def text(self) -> str:
        """All that was printed, without blanks at the ends of lines."""
        return "\n".join(line.rstrip() for line in self._sheet.getvalue().split("\n"))
