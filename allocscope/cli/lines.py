"""``watch`` where there is no terminal, and with --json: a line for each sample as it comes, to
stdout or a file.

Rule: when the reader of stdout has gone, the watching ends at once, not with the next sample.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from allocscope.account.watch import Series, point, rss
from allocscope.cli.output import deliver_part
from allocscope.cli.waiting import wait
from allocscope.closing import Closing
from allocscope.errors import WrongUsage
from allocscope.model.report import Report
from allocscope.model.watch import End, Sample
from allocscope.render import json

SCHEMA = "watch"


class Lines(Closing):
    """Writes samples as lines, and waits between them."""

    def __init__(self, output: Path | None, as_json: bool, exact: bool) -> None:
        """WrongUsage when ``output`` cannot be written."""
        self._as_json, self._exact = as_json, exact
        self._series = Series(1)
        self._read = True
        self._file = None
        try:
            self._file = None if output is None else output.open("wb", buffering=0)
        except OSError as error:
            raise WrongUsage(
                f"{output} cannot be written: {error.strerror}", "Give another --output."
            ) from error

    def show(self, report: Report[Sample]) -> None:
        """One line."""
        now = time.time()
        self._series.add(point(report.data))
        if self._as_json:
            self._write(json.dumps(json.envelope(report, SCHEMA, now)))
            return
        from allocscope.render.watch import line

        self._write(line(report, self._series.change(rss), now, self._exact) + "\n")

    def end(self, report: Report[End]) -> None:
        """The last line."""
        if self._as_json:
            self._write(json.dumps(json.envelope(report, SCHEMA, time.time())))
            return
        from allocscope.render.watch import end

        self._write(end(report) + "\n")

    def pause(self, ended: int | None, seconds: float) -> bool:
        """As app.watch.Pause."""
        closing = () if self._file else (sys.stdout.fileno(),)
        events = wait(seconds, () if ended is None else (ended,), closing)
        return self._read and not events.intersection(closing)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, text: str) -> None:
        if self._file is not None:
            self._file.write(text.encode())
        elif self._read:
            self._read = deliver_part(text.encode(sys.stdout.encoding or "utf-8", "replace"))
