"""The second half of docs/support-matrix.md: the table of layouts, printed from the table that
allocscope reads with."""

from __future__ import annotations

from allocscope.glibc.abi import NARROW, WIDE
from allocscope.glibc.layouts import Layout, malloc_debug_rows_of, rows_of
from allocscope.model.libc import AARCH64, I386, X86_64

HEAD = """
## Layouts

What can be recognised, from `allocscope/glibc/layouts.py`. The name is what `libc.layout` says:
`malloc_state`, heap header, tcache, `mp_`. A row is chosen by what the memory shows, whatever
version the library names. *Checked*: of which releases a running process, or a core with the
program's or glibc's own figures beside it, was read and agreed to the byte; **from the sources**
means that nothing of that row has been run on that machine: its offsets come from glibc's source,
and only made-up memory was read with them.
"""
WIDE_HEAD = """
### 64-bit: x86-64 and aarch64

Both have the same offsets. On aarch64 only cores were read, on an x86-64 machine; allocscope itself
has never been run there (its native helper is compiled for it with every warning an error), so
there *checked* says nothing of live processes, page sizes other than 4 KiB or memory tagging. The
cores there are an emulator's and name no files, by which libc_malloc_debug is told from libc.

| layout | releases | also in | checked on x86-64 | checked on aarch64 |
|---|---|---|---|---|
"""
NARROW_HEAD = """
### 32-bit: i386

Read from 64-bit allocscope, live, from cores and from recordings. Snapshots, and with them `ask`
and `--ask-glibc`, are refused for 32-bit programs.

| layout | releases | also in | checked |
|---|---|---|---|
"""


def text() -> str:
    """The whole section, ended by a newline."""
    wide = [_row(row, X86_64, AARCH64) for row in (*rows_of(WIDE), *malloc_debug_rows_of(WIDE))]
    narrow = [_row(row, I386) for row in (*rows_of(NARROW), *malloc_debug_rows_of(NARROW))]
    return HEAD + WIDE_HEAD + "".join(wide) + NARROW_HEAD + "".join(narrow)


def _row(row: Layout, *machines: str) -> str:
    known = dict(row.checked)
    checked = [known.get(machine, "**from the sources**") for machine in machines]
    cells = [f"`{row.name}`", _span(row.versions), row.backports, *checked]
    return f"| {' | '.join(cells)} |\n"


def _span(versions: tuple[str, ...]) -> str:
    if not versions:
        return "none"
    return versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]}"
