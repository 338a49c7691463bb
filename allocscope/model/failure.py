"""A target that gave no answer, among several that were asked for."""

from __future__ import annotations

from allocscope.immutable import immutable


@immutable
class Failure:
    """What stands in the row of a target that could not be read.

    ``pid`` is None for a file; ``comm`` (for a file its name) is "" where it was never known;
    ``exit_code`` is what the command would have ended with, had this been the only target.
    """

    pid: int | None
    comm: str
    message: str
    hint: str
    exit_code: int
