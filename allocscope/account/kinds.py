"""What a chunk looks like by its first words: an object with virtual functions, text, pointers,
nothing but zeros.

Rule: a guess by shape, and called that; it is made from what is there, never printed itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from allocscope.glibc.abi import Abi
from allocscope.model.pins import Kind

LOOKED_AT_BYTES = 64
LEAST_TEXT_BYTES = 8
MANY_POINTERS_RATIO = 0.5
_VTABLE = re.compile(r"!_ZTV(.+?)(\+0x[0-9a-f]+)?$")
_NESTED = re.compile(r"^N((?:\d+\w+?)+)E$")

Places = Callable[[int], str]
"""What an address lies in: "data" (what a program or library has in memory beside its code),
"code", "heap", "stack", "mapped", or "" for nothing."""
Namer = Callable[[int], str]


def kind_of(first_bytes: bytes, abi: Abi, place: Places, name: Namer) -> Kind:
    """The kind of a chunk whose user memory begins with ``first_bytes`` (LOOKED_AT_BYTES, or all
    that it has)."""
    words = abi.view(first_bytes)
    if len(words) and place(words[0]) == "data":
        symbol = name(words[0])
        vtable = _VTABLE.search(symbol)
        if vtable:
            return Kind("vtable", readable(vtable[1]))
    if not any(first_bytes):
        return Kind("zero", "")
    text = first_bytes.split(b"\0", 1)[0]
    if len(text) >= min(LEAST_TEXT_BYTES, len(first_bytes)) and _printable(text):
        return Kind("string", "")
    filled = [word for word in words if word]
    pointing = [word for word in filled if place(word)]
    if len(pointing) > 1 and len(pointing) > MANY_POINTERS_RATIO * len(filled):
        return Kind("pointer-array", "")
    return Kind("unknown", "")


def _printable(text: bytes) -> bool:
    try:
        return text.decode().isprintable()
    except UnicodeDecodeError:
        return text[:-3].isascii() and all(32 <= byte < 127 for byte in text)


def readable(mangled: str) -> str:
    """``N3foo3BarE`` as ``foo::Bar``, ``3Bar`` as ``Bar``; what is more involved stays as it is."""
    nested = _NESTED.match(mangled)
    parts = []
    rest = nested[1] if nested else mangled
    while rest:
        digits = re.match(r"\d+", rest)
        if not digits:
            return mangled
        length = int(digits[0])
        rest = rest[len(digits[0]) :]
        parts.append(rest[:length])
        if len(rest) < length:
            return mangled
        rest = rest[length:]
    return "::".join(parts)
