"""Amounts as people write them on a command line: sizes (64MiB, 1.5GiB, 200K, 4096) and ratios
(0.2, 20%), as callbacks of options.

Rules: units are binary, as everywhere in allocscope; what could mean two things (MB, a ratio of 20)
is refused with what to write instead, never guessed.
"""

from __future__ import annotations

import re

import click

from allocscope.units import GIB, KIB, MIB, TIB

UNITS = {"K": KIB, "M": MIB, "G": GIB, "T": TIB}
SIZE = re.compile(r"(\d+|\d*\.\d+)([KMGT])(?:iB)?", re.ASCII | re.IGNORECASE)
WHOLE = re.compile(r"(\d+)B?", re.ASCII)
RATIO = re.compile(r"(\d+|\d*\.\d+)(%?)", re.ASCII)
MOST_BYTES = 1 << 63


def bytes_of(text: str) -> int | None:
    """``64MiB``, ``1.5G``, ``4096``, ``17B``; None for anything else."""
    whole = WHOLE.fullmatch(text)
    if whole:
        return int(whole[1])
    found = SIZE.fullmatch(text)
    if found is None:
        return None
    number, unit = found[1], UNITS[found[2].upper()]
    return round(float(number) * unit) if "." in number else int(number) * unit


def size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """A number of bytes, with or without a unit; None where the option was not given."""
    if value is None:
        return None
    amount = bytes_of(value)
    if amount is None:
        raise click.BadParameter(
            f"{value} is no size; write 64MiB, 1.5GiB, 200K (powers of 1024) or 4096"
        )
    if amount >= MOST_BYTES:
        raise click.BadParameter(f"{value} is more than any machine has")
    return amount


def ratio(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """A share of RSS below 1; None where the option was not given."""
    if value is None:
        return None
    found = RATIO.fullmatch(value)
    if found is None:
        raise click.BadParameter(f"{value} is no ratio; write 0.2 or 20%")
    share = float(found[1]) / (100 if found[2] else 1)
    if share >= 1:
        raise click.BadParameter(
            f"{value}: no part of RSS is more than all of it; write less than 1, as 0.2 or 20%"
        )
    return share
