"""Amounts as people write them on a command line: sizes (64MiB, 1.5GiB, 200K, 4096) and ratios
(0.2, 20%), as callbacks of options.

Rules: units are binary, as everywhere in allocscope; what could mean two things (MB, a ratio of 20)
is refused with what to write instead, never guessed.
"""

from __future__ import annotations

import re

import click

from allocscope.units import GIB, KIB, MIB, TIB

UNITS = {"K": KIB, "KIB": KIB, "M": MIB, "MIB": MIB, "G": GIB, "GIB": GIB, "T": TIB, "TIB": TIB}
WHOLE = ("", "B")
DECIMAL = ("KB", "MB", "GB", "TB")
NUMBER = r"(?P<number>\d+(?:\.\d+)?|\.\d+)"
SIZE = re.compile(NUMBER + r"\s*(?P<unit>[A-Za-z]*)", re.ASCII)
RATIO = re.compile(NUMBER + r"\s*(?P<percent>%?)", re.ASCII)
MOST_BYTES = 1 << 63


def size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """A number of bytes, with or without a unit; None where the option was not given."""
    if value is None:
        return None
    found = SIZE.fullmatch(value.strip())
    number, unit = (found["number"], found["unit"].upper()) if found else ("", "?")
    if unit in DECIMAL:
        raise click.BadParameter(f"{value}: sizes are powers of 1024 here; write {unit[0]}iB")
    if unit in WHOLE:
        if "." in number:
            raise click.BadParameter(f"{value} is no whole number of bytes")
        amount = int(number)
    elif unit in UNITS:
        amount = round(float(number) * UNITS[unit])
    else:
        raise click.BadParameter(f"{value} is no size; write 64MiB, 1.5GiB, 200K or 4096")
    if amount >= MOST_BYTES:
        raise click.BadParameter(f"{value} is more than any machine has")
    return amount


def ratio(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """A share of RSS below 1; None where the option was not given."""
    if value is None:
        return None
    found = RATIO.fullmatch(value.strip())
    if found is None:
        raise click.BadParameter(f"{value} is no ratio; write 0.2 or 20%")
    share = float(found["number"]) / (100 if found["percent"] else 1)
    if share >= 1:
        raise click.BadParameter(
            f"{value}: no part of RSS is more than all of it; write less than 1, as 0.2 or 20%"
        )
    return share
