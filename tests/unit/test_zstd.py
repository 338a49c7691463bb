"""Cores packed with zstd, unpacked by each of the ways there are, and by none."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from allocscope.errors import BadInput, MissingPart
from allocscope.files.unpack import open_plain

FOR_EVER = 1 << 62
CONTENT = b"core" * 5000 + bytes(1 << 21) + b"end"
MODULES = ("compression.zstd", "backports.zstd")


def packed(content: bytes = CONTENT) -> bytes:
    """By the command, which must be there: ./dev installs it."""
    done = subprocess.run(["zstd", "-cq"], input=content, capture_output=True, check=True)
    return done.stdout


def unpacked(path: Path) -> bytes:
    with open_plain(path, FOR_EVER) as file:
        return file.read()


@pytest.fixture
def without_module(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MODULES:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "core.zst"


@pytest.mark.usefixtures("without_module")
def test_by_the_command(path: Path) -> None:
    path.write_bytes(packed())
    assert unpacked(path) == CONTENT


@pytest.mark.usefixtures("without_module")
def test_several_frames(path: Path) -> None:
    path.write_bytes(packed(b"one") + packed(b"two"))
    assert unpacked(path) == b"onetwo"


@pytest.mark.usefixtures("without_module")
@pytest.mark.parametrize("damage", ["cut off", "garbage"])
def test_damage_is_no_end(path: Path, damage: str) -> None:
    data = packed()
    path.write_bytes(data[:-9] if damage == "cut off" else data[:4] + b"garbage" * 9)
    with pytest.raises(BadInput, match="cannot be unpacked"):
        unpacked(path)


class Error(Exception):
    """The stand-in's own."""


class Unpacker(io.BytesIO):
    """Stands in for ZstdFile: it unpacks by the command what it is given as a file."""

    def __init__(self, file: Any) -> None:
        done = subprocess.run(["zstd", "-dcq"], input=file.read(), capture_output=True, check=False)
        if done.returncode:
            raise Error("stood in for a damaged frame")
        super().__init__(done.stdout)


@pytest.mark.parametrize("name", MODULES)
def test_by_a_module_and_not_by_the_command(
    name: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = ModuleType(name)
    module.ZstdFile, module.ZstdError = Unpacker, Error
    for other in MODULES:
        monkeypatch.setitem(sys.modules, other, None)
    monkeypatch.setitem(sys.modules, name.partition(".")[0], ModuleType(name.partition(".")[0]))
    monkeypatch.setitem(sys.modules, name, module)
    path.write_bytes(packed())
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert unpacked(path) == CONTENT


@pytest.mark.usefixtures("without_module")
def test_by_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(packed())
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(MissingPart) as caught:
        unpacked(path)
    assert "allocscope[zstd]" in caught.value.hint
    assert "apt install zstd" in caught.value.hint


def test_as_it_comes(path: Path) -> None:
    """By whatever this Python has."""
    path.write_bytes(packed())
    assert unpacked(path) == CONTENT
