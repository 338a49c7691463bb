"""Opening a file that may be compressed: what comes out is always a plain file that can be mapped.

Strategy: the first bytes say what it is, never the name. xz, gzip and zstd (which systemd-coredump
writes) are unpacked into a temporary file that has no name any more, with holes where there are
only zeros, as most of a core is.

Rules: only regular files are opened (a FIFO would block); damage in the packed data is BadInput.
"""

from __future__ import annotations

import gzip
import lzma
import os
import stat
import tempfile
import time
import zlib
from pathlib import Path
from typing import IO, BinaryIO

from allocscope.errors import BadInput, MissingPart
from allocscope.files import zstd

_XZ, _GZIP = b"\xfd7zXZ\0", b"\x1f\x8b"
_ZSTD, _LZ4 = b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"
_BLOCK_BYTES = 1 << 20
_PAGE_BYTES = 4096


_Packed = lzma.LZMAFile | gzip.GzipFile | zstd.Reader


def open_plain(path: Path, deadline_ns: int) -> BinaryIO:
    """``path``, or its unpacked content, open for reading. ``deadline_ns``: CLOCK_MONOTONIC.

    Raises BadInput, and MissingPart for a compression that Python does not have."""
    file = _open_regular(path)
    try:
        start = file.read(6)
        file.seek(0)
        if start.startswith(_XZ):
            return _unpacked(path, lzma.LZMAFile(file), deadline_ns)
        if start.startswith(_GZIP):
            return _unpacked(path, gzip.GzipFile(fileobj=file), deadline_ns)
        if start.startswith(_ZSTD):
            return _unpacked(path, zstd.opened(path, file), deadline_ns)
        if start.startswith(_LZ4):
            raise MissingPart(
                f"{path} is compressed with lz4, which is not unpacked here",
                f"Unpack it first: lz4 -d {path}",
            )
    except BaseException:
        file.close()
        raise
    return file


def _open_regular(path: Path) -> BinaryIO:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadInput(f"{path} is not a regular file", "Give a core file.")
        return path.open("rb")
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}") from error


def _unpacked(path: Path, packed: _Packed, deadline_ns: int) -> BinaryIO:
    plain = tempfile.TemporaryFile(prefix="allocscope-")  # noqa: SIM115
    try:
        with packed:
            while block := packed.read(_BLOCK_BYTES):
                _write_with_holes(plain, block)
                if time.monotonic_ns() > deadline_ns:
                    raise BadInput(
                        f"{path} was not unpacked before the deadline",
                        "Raise --deadline, or unpack it first.",
                    )
        plain.truncate(plain.tell())
    except (OSError, EOFError, lzma.LZMAError, zlib.error, zstd.Damaged) as error:
        plain.close()
        raise BadInput(f"{path} cannot be unpacked: {error}") from error
    except BaseException:
        plain.close()
        raise
    plain.seek(0)
    return plain


def _write_with_holes(plain: IO[bytes], block: bytes) -> None:
    if not block.strip(b"\0"):
        plain.seek(len(block), os.SEEK_CUR)
        return
    zeros = bytes(_PAGE_BYTES)
    for at in range(0, len(block), _PAGE_BYTES):
        part = block[at : at + _PAGE_BYTES]
        if part == zeros:
            plain.seek(_PAGE_BYTES, os.SEEK_CUR)
        else:
            plain.write(part)
