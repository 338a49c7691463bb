"""Which kind of file a verb was given, and whether the options fit it: decided here for all verbs
that read both."""

from __future__ import annotations

from pathlib import Path

from allocscope.errors import WrongUsage
from allocscope.files import CORE, kind_of


def is_core(path: Path, *, sample: int | None, exe: Path | None) -> bool:
    """A core, or else a recording. ``sample`` is of recordings, ``exe`` of cores.

    Raises BadInput (9) for any other file, WrongUsage (2) for an option of the other kind."""
    if kind_of(path) == CORE:
        if sample is not None:
            raise WrongUsage(f"{path} is a core: it has no samples", "Leave --sample out.")
        return True
    if exe is not None:
        raise WrongUsage(f"{path} is a recording: it knows its program", "Leave --exe out.")
    return False
