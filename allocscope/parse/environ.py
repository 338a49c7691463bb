"""/proc/PID/environ: the malloc settings that a process was started with.

Rules: this is the block as execve received it; the program may have changed its environment, or
called mallopt, since. So this is evidence for the origin of a setting, never the setting itself
(that is in ``mp_``). As in getenv(3), the first of several equal names counts; of several equal
tunables, the last.

Source: proc_pid_environ(5); mallopt(3); "Tunables" in the glibc manual, elf/dl-tunables.c.
"""

from __future__ import annotations

PRELOAD = "LD_PRELOAD"
TUNABLES = "GLIBC_TUNABLES"


def parse(data: bytes) -> dict[str, str]:
    """The variables that concern malloc: ``MALLOC_*``, ``GLIBC_TUNABLES`` and ``LD_PRELOAD``,
    others left out."""
    chosen: dict[str, str] = {}
    for entry in data.split(b"\0"):
        name, equals, value = entry.decode("utf-8", "surrogateescape").partition("=")
        if equals and (name.startswith("MALLOC_") or name in (TUNABLES, PRELOAD)):
            chosen.setdefault(name, value)
    return chosen


def tunables(text: str) -> dict[str, str]:
    """``glibc.malloc.arena_max=2:glibc.malloc.…`` as names and values; pieces without a ``=`` are
    passed over."""
    pieces = (piece.partition("=") for piece in text.split(":"))
    return {name: value for name, equals, value in pieces if equals and name}
