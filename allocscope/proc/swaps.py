"""Where this machine swaps to: /proc/swaps, and whether zswap stands in front of it.

Source: proc_swaps(5); Documentation/admin-guide/mm/zswap.rst, blockdev/zram.rst of the kernel.
"""

from __future__ import annotations

import contextlib
import re

from allocscope.model.process import SwapArea, Swapping

_ZSWAP = "/sys/module/zswap/parameters/enabled"
_ZRAM = re.compile(r"/dev/zram\d+$")


def swapping() -> Swapping:
    """The areas, each with whether it is memory that is compressed (zram)."""
    lines = _text("/proc/swaps").splitlines()[1:]
    paths = [line.split()[0].replace("\\040", " ") for line in lines if line.split()]
    areas = tuple(SwapArea(path, _ZRAM.match(path) is not None) for path in paths)
    return Swapping(areas, zswap=_text(_ZSWAP).strip() in ("Y", "1"))


def _text(path: str) -> str:
    """A file of the kernel; empty where this kernel has none."""
    with contextlib.suppress(OSError), open(path, errors="replace") as file:
        return file.read()
    return ""
