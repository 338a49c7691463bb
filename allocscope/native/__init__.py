"""The native helper (probes/), loaded once, and what every source of memory shares.

The only room that the helper's reading half is called from; :mod:`allocscope.act` has the half that
stops and changes.
"""

from __future__ import annotations

from allocscope.errors import MissingPart

try:
    from allocscope._probes import ffi, lib
except ImportError as missing:
    raise MissingPart(
        f"the native helper cannot be loaded: {missing}",
        "Install allocscope with pip (a wheel, or with a C compiler at hand); "
        "in the sources, run ./dev setup.",
    ) from missing

__all__ = ["ffi", "lib"]
