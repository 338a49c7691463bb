"""``record`` for people: what was written, and how large it is beside the heap."""

from __future__ import annotations

from allocscope.model.recording import RecordResult
from allocscope.model.report import Report
from allocscope.render import sentences
from allocscope.render.page import Look, Page
from allocscope.render.text import clean, plural, size

WORTH_A_SHARE = 1 << 20
"""Beside less the facts and the library's data are most of the file."""


def record(report: Report[RecordResult], look: Look) -> str:
    """Three lines and the caveats."""
    page, data = Page(look), report.data
    share = ""
    if data.heap_bytes > WORTH_A_SHARE:
        each = data.file_bytes / data.sample_count
        share = f", {100 * each / data.heap_bytes:.2g} % of the resident heap for each sample"
    samples = plural(data.sample_count, "sample")
    page.line(f"{clean(data.path)}: {samples}, {size(data.file_bytes)}{share}.", "bold")
    page.line(f"pid {report.process.pid} {clean(report.process.comm, 40)}", "dim")
    if data.with_contents:
        page.line(
            "It holds whatever the program stored in its heap, its stacks and its variables.",
            "yellow",
        )
    for caveat in report.caveats:
        page.line(f"note: {clean(caveat.message)} [{clean(caveat.code)}]", "yellow")
    page.line(sentences.method(report.method), "dim")
    return page.text()
