"""zstd, which Python has from 3.14 on: before that by the package backports.zstd (``pip install
'allocscope[zstd]'``), and without it by the command ``zstd``.

Rule: what is read is all that comes out, or an error; a command that fails is never taken for the
end of the data.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, BinaryIO

from allocscope.errors import MissingPart

_MODULES = ("compression.zstd", "backports.zstd")


class Damaged(Exception):
    """The packed data cannot be unpacked."""


def opened(path: Path, file: BinaryIO) -> Reader:
    """The unpacked content of ``file``, which is open at its beginning; ``path`` is its name.
    MissingPart where nothing here can do that."""
    for name in _MODULES:
        try:
            return _ByModule(importlib.import_module(name), file)
        except ImportError:
            continue
    command = shutil.which("zstd")
    if command is None:
        raise MissingPart(
            f"{path} is compressed with zstd, which this Python does not have",
            "pip install 'allocscope[zstd]', or install the command (apt install zstd).",
        )
    return _ByCommand(command, file)


class Reader:
    """Reads what comes out; a context manager that closes the packed file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, none at the end. Damaged."""
        raise NotImplementedError

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _ByModule(Reader):
    """By a module with the interface of compression.zstd."""

    def __init__(self, module: Any, file: BinaryIO) -> None:
        super().__init__(file)
        self._error: type[Exception] = module.ZstdError
        self._unpacked = module.ZstdFile(file)

    def read(self, size: int) -> bytes:
        try:
            return bytes(self._unpacked.read(size))
        except self._error as error:
            raise Damaged(str(error)) from error


class _ByCommand(Reader):
    """By the command, which reads the file itself."""

    def __init__(self, command: str, file: BinaryIO) -> None:
        super().__init__(file)
        os.lseek(file.fileno(), 0, os.SEEK_SET)  # what was read ahead is not the command's
        self._process = subprocess.Popen(
            [command, "-dcq"], stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def read(self, size: int) -> bytes:
        assert self._process.stdout is not None and self._process.stderr is not None
        block = self._process.stdout.read(size)
        if not block and self._process.wait():
            said = self._process.stderr.read().decode(errors="replace").strip()
            raise Damaged(said.rpartition("\n")[2] or f"zstd ended with {self._process.returncode}")
        return block

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        super().__exit__()
