"""``doctor`` for people: one line per check, the cure below where there is one."""

from __future__ import annotations

from collections.abc import Sequence

from allocscope.model.checks import Check
from allocscope.render.page import Look, Page
from allocscope.render.text import clean, plural

_STYLE = {"degraded": "yellow", "missing": "bold red"}


def checks(found: Sequence[Check], look: Look) -> str:
    """The findings, and how many of them need attention, ended by a newline."""
    page = Page(look)
    keys = max((len(check.key) for check in found), default=0)
    for check in found:
        start = f"{check.status:8}  {check.key:{keys}}  "
        style = _STYLE.get(check.status, "")
        page.line(start + clean(check.message), style, hanging=len(start))
        if check.cure:
            page.line(" " * len(start) + clean(check.cure), "dim", hanging=len(start))
    wanting = [check for check in found if check.status != "ok"]
    page.blank()
    if wanting:
        page.line(f"{plural(len(wanting), 'check')} of {len(found)} not ok.")
    else:
        page.line(f"All {len(found)} checks are ok." if len(found) > 1 else "The check is ok.")
    return page.text()
