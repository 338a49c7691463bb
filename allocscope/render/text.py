"""Numbers and foreign strings as people read them.

Rules: binary units, one decimal; a table uses one unit throughout, so that a column can be
compared at a glance; a figure that is not zero never prints as zero; unknown prints as "?". A
string that came from a target never reaches a terminal unescaped.
"""

from __future__ import annotations

from allocscope.immutable import immutable
from allocscope.units import GIB, KIB, MIB, TIB, plural, size

__all__ = ["GIB", "KIB", "MIB", "TIB", "plural", "size"]


@immutable
class Unit:
    """The unit of a table: ``cell`` prints without the unit's name, which the table says once."""

    name: str
    divisor: int

    def cell(self, bytes_: int | None) -> str:
        if bytes_ is None:
            return "?"
        if self.divisor == 1 or bytes_ == 0:
            return str(bytes_)
        value = bytes_ / self.divisor
        if abs(value) < 0.05:
            return "<0.1" if value > 0 else ">-0.1"
        return f"{value:.1f}"


BYTES = Unit("bytes", 1)


def unit_for(largest: int, exact: bool) -> Unit:
    """The unit in which a table with ``largest`` bytes in it reads best; ``exact`` (--bytes)
    forces bytes.
    """
    if exact:
        return BYTES
    if largest < 10 * MIB:
        return Unit("KiB", KIB)
    if largest < TIB:
        return Unit("MiB", MIB)
    return Unit("GiB", GIB)


def signed_size(bytes_: int, exact: bool = False) -> str:
    """As ``size``, with the sign always printed."""
    return ("+" if bytes_ >= 0 else "") + size(bytes_, exact)


def duration(nanoseconds: int) -> str:
    """``1900000`` as ``1.9 ms``."""
    if 0 < nanoseconds < 1000:
        return f"{nanoseconds} ns"
    milliseconds = nanoseconds / 1e6
    if milliseconds < 0.1:
        return f"{nanoseconds / 1e3:.0f} µs"
    if milliseconds < 10:
        return f"{milliseconds:.1f} ms"
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    return f"{milliseconds / 1e3:.1f} s"


def age(seconds: float) -> str:
    """How long a process has been running, in its two largest units."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    if minutes:
        return f"{minutes} min {whole % 60} s"
    return f"{whole} s"


def clean(foreign: str, limit: int = 0) -> str:
    """``foreign`` without anything that could steer a terminal: control characters, bidirectional
    overrides and undecodable bytes become visible escapes. ``limit`` (0: none) cuts what is
    longer and says so with "…".
    """
    if foreign.isprintable():
        safe = foreign
    else:
        safe = "".join(c if c.isprintable() else _escaped(c) for c in foreign)
    return safe if not limit or len(safe) <= limit else safe[: limit - 1] + "…"


def clean_path(path: str, limit: int) -> str:
    """As ``clean``, but a long path loses its beginning: what it leads to matters most."""
    safe = clean(path)
    return safe if len(safe) <= limit else "…" + safe[len(safe) - limit + 1 :]


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that surrogateescape carried through
        code -= 0xDC00
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
