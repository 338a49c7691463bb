"""Pressure stall information about memory: /proc/pressure/memory and a control group's
memory.pressure.

Source: Documentation/accounting/psi.rst of the kernel. The line ``full`` may be missing.
"""

from __future__ import annotations

import re

from allocscope.errors import BadInput
from allocscope.model.process import Stalls

_LINE = re.compile(
    r"^(some|full) avg10=(\d+\.\d+) avg60=(\d+\.\d+) avg300=(\d+\.\d+) total=(\d+)$", re.MULTILINE
)


def parse(data: bytes) -> Stalls:
    """Both lines as shares of time. Raises BadInput for anything else."""
    found = {match[1]: match for match in _LINE.finditer(data.decode("ascii", "replace"))}
    if "some" not in found:
        raise BadInput(f"pressure: the line of some tasks is missing: {data[:80]!r}")
    full = found.get("full")
    return Stalls(
        some_10s_ratio=float(found["some"][2]) / 100,
        some_60s_ratio=float(found["some"][3]) / 100,
        full_10s_ratio=None if full is None else float(full[2]) / 100,
        full_60s_ratio=None if full is None else float(full[3]) / 100,
    )
