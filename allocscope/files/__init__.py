"""Memory that lies in files or in our own hands: the same Memory and Walker as for a live process.

A target that is not a number is a file, and its first bytes say which kind: :func:`kind_of` is the
one place where that is decided. The modules that read each kind are imported by who needs them.
"""

from __future__ import annotations

from pathlib import Path

from allocscope.errors import BadInput

RECORDING = "recording"
CORE = "core"
MAGICS = {b"\x93ASCOPE\n": RECORDING, b"\x7fELF": CORE}


def kind_of(path: Path) -> str:
    """What the file ``path`` is, by its magic number. BadInput when it cannot be read or is
    neither."""
    try:
        with path.open("rb") as file:
            start = file.read(max(map(len, MAGICS)))
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read: {error.strerror}",
            "A target is a pid (digits), or a file made by `allocscope record`.",
        ) from error
    for magic, kind in MAGICS.items():
        if start.startswith(magic):
            return kind
    raise BadInput(
        f"{path} is neither a recording of allocscope nor a core file",
        "A target is a pid (digits), or a file made by `allocscope record`.",
    )
