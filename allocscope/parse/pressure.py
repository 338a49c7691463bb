"""Pressure stall information about memory: /proc/pressure/memory and a control group's
memory.pressure.

Source: Documentation/accounting/psi.rst of the kernel. The line ``full`` may be missing.
"""

from __future__ import annotations

from allocscope.errors import BadInput
from allocscope.model.process import Stalls


def parse(data: bytes) -> Stalls:
    """Both lines as shares of time. Raises BadInput for anything else."""
    lines = dict(_line(line) for line in data.split(b"\n") if line)
    some, full = lines.get(b"some"), lines.get(b"full")
    if some is None:
        raise BadInput(f"pressure: the line of some tasks is missing: {data[:80]!r}")
    return Stalls(
        some_10s_ratio=some[0],
        some_60s_ratio=some[1],
        full_10s_ratio=None if full is None else full[0],
        full_60s_ratio=None if full is None else full[1],
    )


def _line(line: bytes) -> tuple[bytes, tuple[float, float]]:
    """Of "some avg10=1.25 avg60=0.50 avg300=0.00 total=1234" the word and two shares."""
    kind, *pairs = line.split()
    try:
        percents = {key: float(value) for key, _, value in (p.partition(b"=") for p in pairs)}
        return kind, (percents[b"avg10"] / 100, percents[b"avg60"] / 100)
    except (KeyError, ValueError) as error:
        raise BadInput(f"pressure: a line is not as documented: {line[:80]!r}") from error
