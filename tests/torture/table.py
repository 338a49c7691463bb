"""The results of the torture test: kept as JSON, shown as docs/torture.md.

Rule: a part that is run again replaces its own results only, each with its date, its command and
the machine it ran on, so the long form can be run in pieces.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS, PAGE = DOCS / "torture.json", DOCS / "torture.md"

_STORMS = ("program", "glibc", "snapshots", "trims", "checks", "interruptions",
           "longest_snapshot_pause_ns", "longest_trim_ns", "seconds")  # fmt: skip


def keep(part: str, command: str, rows: list[Any]) -> None:
    """Puts the rows (dataclasses) of one part among the results, and writes the page anew."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    system = os.uname()
    results[part] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": command,
        "machine": f"Linux {system.release.partition('-')[0]}, {os.cpu_count()} CPUs",
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(results))


def page(results: dict[str, Any]) -> str:
    """The whole of docs/torture.md."""
    return ""
