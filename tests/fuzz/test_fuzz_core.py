"""Core files with bytes changed, cut and swapped: an answer, or one family of errors."""

from __future__ import annotations

import contextlib
import functools
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from unit import cores
from unit.mallocs import LIBC_DATA, furnished

from allocscope.app.arenas_core import arenas_of_core
from allocscope.app.explain import ExplainOptions
from allocscope.app.explain_core import portrait_of_core
from allocscope.app.map_file import map_of_file
from allocscope.app.pins_file import pins_of_file
from allocscope.app.pins_search import PinsOptions
from allocscope.app.trim import TrimOptions
from allocscope.app.trim_file import trim_of_file
from allocscope.app.tune_file import tune_of_file
from allocscope.errors import AllocscopeError
from allocscope.parse import core_notes

FUZZ = settings.get_profile("fuzz")
VERSIONS = st.sampled_from(["2.17", "2.26", "2.29", "2.36", "2.44"])
WORDS = st.one_of(
    st.sampled_from([0, 1, 8, 1 << 31, 1 << 47, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, LIBC_DATA]),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 1 << 16),
)


@functools.cache
def sound(version: str) -> bytes:
    return cores.of_malloc(furnished(version).write())


OTHERS: list[Callable[[Path], object]] = [
    lambda path: map_of_file(path, raw=True, sample=None, exe=None, deadline_s=60),
    lambda path: tune_of_file(path, sample=None, exe=None, deadline_s=60),
    lambda path: trim_of_file(path, TrimOptions(deadline_s=60), sample=None, exe=None),
    lambda path: portrait_of_core(path, ExplainOptions(deadline_s=60, pages=True), exe=None),
    lambda path: pins_of_file(path, PinsOptions(deadline_s=60), sample=None, exe=None),
]


def outcome(data: bytes) -> None:
    """Reads it as a core, with `arenas` and with one of the other verbs, each file with its own:
    only our errors may come out."""
    with tempfile.NamedTemporaryFile(suffix=".core") as file:
        file.write(data)
        file.flush()
        other = OTHERS[zlib.crc32(data) % len(OTHERS)]
        with contextlib.suppress(AllocscopeError):
            arenas_of_core(Path(file.name), exe=None, deadline_s=60)
        with contextlib.suppress(AllocscopeError):
            other(Path(file.name))


@settings(FUZZ)
@given(st.binary(max_size=400), st.booleans())
def test_anything_is_no_core(data: bytes, elf: bool) -> None:
    outcome(b"\x7fELF\2\1\1".ljust(16, b"\0") + b"\4\0\x3e\0" + data if elf else data)


@settings(FUZZ)
@given(
    VERSIONS,
    st.lists(st.tuples(st.integers(0, 1 << 12), st.sampled_from("BHIQ"), WORDS), max_size=4),
    st.integers(0, 1 << 24),
)
def test_headers_and_notes_with_other_numbers(
    version: str, changes: list[tuple[int, str, int]], cut: int
) -> None:
    data = bytearray(sound(version))
    for place, kind, value in changes:
        struct.pack_into(f"<{kind}", data, place, value % (1 << 8 * struct.calcsize(kind)))
    outcome(bytes(data[: max(len(data) - cut, 0)] if cut < len(data) // 2 else data))


@settings(FUZZ)
@given(VERSIONS, st.lists(st.tuples(st.floats(0, 1), WORDS), min_size=1, max_size=8))
def test_memory_with_other_words(version: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(sound(version))
    for where, value in changes:
        struct.pack_into("<Q", data, int(where * (len(data) // 8 - 1)) * 8, value)
    outcome(bytes(data))


def near_libc(version: str) -> tuple[int, int]:
    """Where in the file libc's data lies: the bytes before the mapped chunks and stacks."""
    data = sound(version)
    table, count = 64, struct.unpack_from("<H", data, 56)[0]
    for number in range(count):
        _, _, offset, start, _, size, _, _ = struct.unpack_from(
            "<IIQQQQQQ", data, table + 56 * number
        )
        if start == LIBC_DATA:
            return offset, size
    raise AssertionError("the made-up core has no libc")


@settings(FUZZ)
@given(VERSIONS, st.lists(st.tuples(st.floats(0, 1), WORDS), min_size=1, max_size=3))
def test_arenas_and_mp_with_other_words(version: str, changes: list[tuple[float, int]]) -> None:
    data = bytearray(sound(version))
    offset, size = near_libc(version)
    for where, value in changes:
        struct.pack_into("<Q", data, offset + int(where * (size // 8 - 1)) * 8, value)
    outcome(bytes(data))


NOTES: list[Callable[[], bytes]] = [
    lambda: cores.prstatus(7, 0x7000),
    lambda: cores.prpsinfo(7, b"name"),
    lambda: cores.auxv(0x1000),
    lambda: cores.file_note([(0x1000, 0x2000, "/a"), (0x3000, 0x4000, "/b")]),
]


@settings(FUZZ)
@given(
    st.lists(st.one_of(st.sampled_from(NOTES).map(lambda make: make()), st.binary(max_size=40))),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
)
def test_notes_of_any_bytes(parts: list[bytes], changes: list[tuple[int, int]]) -> None:
    data = bytearray(b"".join(parts))
    for place, value in changes:
        if place < len(data):
            data[place] = value
    notes = core_notes.parse(bytes(data))
    assert notes.pid >= 0
    assert all(file.start < file.end for file in notes.files)
    assert len(notes.threads) <= len(data) // 336
