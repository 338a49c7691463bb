"""How a value class says that a number is an address: ``field(metadata=HEX)``."""

from __future__ import annotations

HEX = {"hex": True}
"""Metadata of a field that holds an address: an int in Python, a ``"0x…"`` string in JSON."""
