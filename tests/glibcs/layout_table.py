"""The second half of docs/support-matrix.md: the table of layouts, printed from the table that
allocscope reads with."""

from __future__ import annotations

from allocscope.glibc.layouts import LAYOUTS, MALLOC_DEBUG_LAYOUTS

HEAD = """
## Layouts

What can be recognised, from `allocscope/glibc/layouts.py`. The name is what `libc.layout` says:
`malloc_state`, heap header, tcache, `mp_`. A row is chosen by what the memory shows, whatever
version the library names. *Checked*: of which releases a running process, or a recorded core with
glibc's own figures beside it (`tests/samples`), was read and agreed to the byte; **from the
sources** means that nothing of that row has been run: its offsets come from glibc's source, and
only made-up memory was read with them.

| layout | releases | also in | checked |
|---|---|---|---|
"""


def text() -> str:
    """The whole section, ended by a newline."""
    rows = [
        (f"`{row.name}`", _span(row.versions), row.backports, row.checked or "**from the sources**")
        for row in (*LAYOUTS, *MALLOC_DEBUG_LAYOUTS)
    ]
    return HEAD + "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _span(versions: tuple[str, ...]) -> str:
    if not versions:
        return "none"
    return versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]}"
