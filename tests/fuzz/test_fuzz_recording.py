"""Recordings with anything in them, behind checksums that are right: an answer, or one family of
errors. (Damage that the checksums catch is in tests/unit/test_recording_file.py.)"""

from __future__ import annotations

import contextlib
import functools
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from unit import recordings
from unit.mallocs import furnished

from allocscope.app.arenas_file import arenas_of_file
from allocscope.app.diff import DiffOptions, diff
from allocscope.app.footprint_file import footprint_of_file
from allocscope.app.lazyfree_file import lazyfree_of_file
from allocscope.app.map_file import map_of_file
from allocscope.app.pins_file import pins_of_file
from allocscope.app.pins_search import PinsOptions
from allocscope.app.trim import TrimOptions
from allocscope.app.trim_file import trim_of_file
from allocscope.app.tune_file import tune_of_file
from allocscope.errors import AllocscopeError
from allocscope.files.container import Reader, Writer

FUZZ = settings.get_profile("fuzz")
VERSIONS = st.sampled_from(["2.17", "2.29", "2.36", "2.44"])
CHANGE = st.tuples(
    st.integers(0, 15),  # which section
    st.floats(0, 1),  # where in it
    st.one_of(
        st.binary(min_size=1, max_size=8),
        st.sampled_from([0, 16, 1 << 47, (1 << 63) - 1, (1 << 64) - 8, (1 << 64) - 1]).map(
            lambda word: word.to_bytes(8, "little")
        ),
    ),
)
Sections = list[tuple[bytes, bytes]]


@functools.cache
def sections_of(version: str) -> Sections:
    with tempfile.TemporaryDirectory() as directory:
        path = recordings.write(furnished(version).write(), Path(directory) / "whole")
        assert not arenas_of_file(path, sample=None, deadline_s=60).report.partial
        with Reader(path) as reader:
            return [(section.name, reader.read(section)) for section in reader.sections]


def outcome(sections: Sections, whole: Sections) -> None:
    """Reads it, and compares it with the whole one: only our errors may come out."""
    with tempfile.TemporaryDirectory() as directory:
        path, other = Path(directory) / "recording", Path(directory) / "other"
        for file, content in ((path, sections), (other, whole)):
            with Writer(file) as writer:
                for name, data in content:
                    writer.add(name, data)
        with contextlib.suppress(AllocscopeError):
            arenas_of_file(path, sample=None, deadline_s=60)
        with contextlib.suppress(AllocscopeError):
            pins_of_file(path, PinsOptions(deadline_s=60), sample=None, exe=None)
        with contextlib.suppress(AllocscopeError):
            diff(path, other, DiffOptions(None, None, exact=False, deadline_s=60))
        with contextlib.suppress(AllocscopeError):
            map_of_file(path, raw=True, sample=None, exe=None, deadline_s=60)
        with contextlib.suppress(AllocscopeError):
            tune_of_file(path, sample=None, exe=None, deadline_s=60)
        with contextlib.suppress(AllocscopeError):
            trim_of_file(path, TrimOptions(deadline_s=60), sample=None, exe=None)
        with contextlib.suppress(AllocscopeError):
            lazyfree_of_file(path, sample=None)
        with contextlib.suppress(AllocscopeError):
            footprint_of_file(path, sample=None, retained=True)


@settings(FUZZ)
@given(VERSIONS, st.lists(CHANGE, min_size=1, max_size=6))
def test_sections_with_other_bytes(version: str, changes: list[tuple[int, float, bytes]]) -> None:
    sections = sections_of(version)
    contents = [bytearray(data) for _, data in sections]
    for number, where, new in changes:
        content = contents[number % len(contents)]
        at = int(where * len(content))
        content[at : at + len(new)] = new[: len(content) - at]
    names = [name for name, _ in sections]
    outcome(list(zip(names, map(bytes, contents), strict=True)), sections)


@settings(FUZZ)
@given(VERSIONS, st.lists(st.integers(0, 15), max_size=12), st.integers(0, 15), st.floats(0, 1))
def test_sections_missing_repeated_and_cut(
    version: str, order: list[int], short: int, left: float
) -> None:
    whole = sections_of(version)
    sections = [whole[number % len(whole)] for number in order]
    if sections:
        name, data = sections[short % len(sections)]
        sections[short % len(sections)] = name, data[: int(left * len(data))]
    outcome(sections, whole)
