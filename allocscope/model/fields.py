"""Field helpers: how a dataclass says that a number is an address."""

from __future__ import annotations

import dataclasses
from typing import Any

HEX = {"hex": True}


def address(**kwargs: Any) -> Any:
    """A dataclass field that holds an address: an int in Python, a ``"0x…"`` string in JSON."""
    return dataclasses.field(metadata=HEX, **kwargs)
