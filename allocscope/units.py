"""Bytes and counts in words, for evidence and tables alike: binary units, one decimal."""

from __future__ import annotations

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


def size(bytes_: int | None, exact: bool = False) -> str:
    """``432013312`` as ``412.0 MiB``, or as ``432013312 bytes`` when ``exact``."""
    if bytes_ is None:
        return "an unknown amount"
    magnitude = abs(bytes_)
    if exact or magnitude < KIB:
        return f"{bytes_} byte" if bytes_ == 1 else f"{bytes_} bytes"
    # 1023.95 would round to 1024.0 of the smaller unit.
    for divisor, name in ((GIB, "GiB"), (MIB, "MiB")):
        if magnitude >= divisor * 0.99995:
            return f"{bytes_ / divisor:.1f} {name}"
    return f"{bytes_ / KIB:.1f} KiB"


def plural(count: int, noun: str, many: str = "") -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} {noun if count == 1 else many or noun + 's'}"
