"""Memory that lies in files or in our own hands: the same Memory and Walker as for a live process.

A target that is not a number is a file, and its first bytes say which kind: :func:`kind_of` is the
one place where that is decided. The modules that read each kind are imported by who needs them.
"""

from __future__ import annotations

from pathlib import Path

from allocscope.errors import BadInput

RECORDING = "recording"
CORE = "core"
RECORDING_MAGIC = b"\x93ASCOPE\n"
_ELF_MAGIC = b"\x7fELF"
_ELF_TYPE_OFFSET = 16
_ET_CORE = (b"\x04\0", b"\0\x04")
_HINT = (
    "A target is a pid (digits), or a file made by `allocscope record`; to choose processes by "
    "name use `arenas --name RE`."
)


def kind_of(path: Path) -> str:
    """What the file ``path`` is, by its magic number. BadInput when it cannot be read or is
    neither."""
    try:
        with path.open("rb") as file:
            start = file.read(_ELF_TYPE_OFFSET + 2)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", _HINT) from error
    if start.startswith(RECORDING_MAGIC):
        return RECORDING
    if start.startswith(_ELF_MAGIC) and start[_ELF_TYPE_OFFSET:] in _ET_CORE:
        return CORE
    raise BadInput(f"{path} is neither a recording of allocscope nor a core file", _HINT)
