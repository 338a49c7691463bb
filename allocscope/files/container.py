"""The outer form of a recording: a magic number, a format version, then named sections, each
compressed with zlib.

Rules: a section says how long it is, packed and unpacked, and its header carries its own checksum
(zlib has one of its content), so that a damaged file is refused, never half believed. Nothing is
unpacked beyond what its header says, and that may be at most RATIO times its packed length, which
zlib cannot exceed. A section is at most SECTION_BYTES long; longer things are several.
"""

from __future__ import annotations

import os
import struct
import tempfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from allocscope.closing import Closing
from allocscope.errors import BadInput, WrongUsage
from allocscope.files import RECORDING_MAGIC as MAGIC
from allocscope.immutable import immutable

FORMAT_VERSION = 1
LEVEL = 3
RATIO = 1100
SECTION_BYTES = 32 << 20
MOST_SECTIONS = 1 << 20
_START = struct.Struct("<8sI")
_HEADER = struct.Struct("<4sQQ")
_SUM = struct.Struct("<I")


@immutable
class Section:
    """Where a section's packed content lies in the file, and its lengths in bytes."""

    name: bytes
    offset: int
    packed_bytes: int
    unpacked_bytes: int


class Writer:
    """Writes a new file beside ``path``, readable for its owner only, and puts it in its place when
    everything was written. Use it in ``with``; WrongUsage where it cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path = Path(os.path.realpath(path))
        if path.exists() and not path.is_file():  # a device must not be replaced by a file
            raise WrongUsage(f"{path} is no regular file", "Give another file with -o.")
        try:
            # mkstemp: O_EXCL, mode 0600
            descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        except OSError as error:
            raise self._trouble(error) from error
        self._unfinished = Path(name)
        self._file: BinaryIO = os.fdopen(descriptor, "wb")
        self._file.write(_START.pack(MAGIC, FORMAT_VERSION))

    def add(self, name: bytes, content: bytes) -> None:
        """One section; ``name`` has four letters."""
        packed = zlib.compress(content, LEVEL)
        header = _HEADER.pack(name, len(packed), len(content))
        try:
            self._file.write(header + _SUM.pack(zlib.crc32(header)) + packed)
        except OSError as error:
            raise self._trouble(error) from error

    def position(self) -> int:
        """Where the next section will begin."""
        return self._file.tell()

    def cut_back(self, position: int) -> None:
        """Takes back all sections from ``position`` on."""
        self._file.seek(position)
        self._file.truncate()

    def _trouble(self, error: OSError) -> WrongUsage:
        return WrongUsage(
            f"{self.path} cannot be written: {error.strerror}", "Give another file with -o."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
            if error is None:
                self._unfinished.replace(self.path)
                return
        except OSError as failure:
            self._unfinished.unlink()
            raise self._trouble(failure) from failure
        self._unfinished.unlink()


class Reader(Closing):
    """The sections of a file. BadInput for what is no whole recording of a known version."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise BadInput(f"{path} cannot be read: {error.strerror}") from error
        try:
            self.sections = self._list()
        except BaseException:
            self._file.close()
            raise

    def _list(self) -> list[Section]:
        size = os.fstat(self._file.fileno()).st_size
        start = self._file.read(_START.size)
        if len(start) < _START.size or not start.startswith(MAGIC):
            raise BadInput(f"{self._path} is not a recording of allocscope")
        _, version = _START.unpack(start)
        if version != FORMAT_VERSION:
            raise BadInput(
                f"{self._path} is a recording of format version {version}, and this allocscope "
                f"reads version {FORMAT_VERSION}",
                "Read it with the version of allocscope that made it, or a later one.",
            )
        sections: list[Section] = []
        at = _START.size
        while at < size:
            header = self._file.read(_HEADER.size + _SUM.size)
            at += len(header)
            if len(header) < _HEADER.size + _SUM.size:
                raise self.damaged("it ends within a header")
            if zlib.crc32(header[: _HEADER.size]) != _SUM.unpack_from(header, _HEADER.size)[0]:
                raise self.damaged("a header's checksum is wrong")
            name, packed, unpacked = _HEADER.unpack_from(header)
            if packed > size - at:
                raise self.damaged("it was cut off")
            if unpacked > SECTION_BYTES or unpacked > RATIO * packed:
                raise self.damaged("a section claims to be too long")
            if len(sections) == MOST_SECTIONS:
                raise self.damaged("it has too many sections")
            sections.append(Section(name, at, packed, unpacked))
            at += packed
            self._file.seek(at)
        return sections

    def damaged(self, how: str) -> BadInput:
        return BadInput(f"{self._path} is damaged: {how}", "Record again, or copy it again.")

    def read(self, section: Section) -> bytes:
        """A section's content."""
        self._file.seek(section.offset)
        unpacker = zlib.decompressobj()
        try:
            content = unpacker.decompress(
                self._file.read(section.packed_bytes), section.unpacked_bytes + 1
            )
        except zlib.error as error:
            raise self.damaged(str(error)) from error
        if not unpacker.eof or len(content) != section.unpacked_bytes or unpacker.unused_data:
            raise self.damaged("a section is not as long as it claims")
        return content

    def close(self) -> None:
        self._file.close()
