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
PACKED_MAGIC = (b"\xfd7zXZ\0", b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
"""xz, gzip, zstd, lz4: how cores are packed."""
_ELF_MAGIC = b"\x7fELF"
_ELF_TYPE_OFFSET = 16
_ET_CORE = (b"\x04\0", b"\0\x04")
_HINT = (
    "A target is a pid (digits), a file made by `allocscope record`, or a core file; to choose "
    "processes by name use `arenas --name RE`."
)


def kind_of(path: Path) -> str:
    """What the file ``path`` is, by its magic number; whatever is packed counts as a core.
    BadInput when it cannot be read or is neither."""
    try:
        with path.open("rb") as file:
            start = file.read(_ELF_TYPE_OFFSET + 2)
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", _HINT) from error
    if start.startswith(RECORDING_MAGIC):
        return RECORDING
    if start.startswith(_ELF_MAGIC) and start[_ELF_TYPE_OFFSET:] in _ET_CORE:
        return CORE
    if start.startswith(PACKED_MAGIC):
        return CORE
    raise BadInput(f"{path} is neither a recording of allocscope nor a core file", _HINT)
