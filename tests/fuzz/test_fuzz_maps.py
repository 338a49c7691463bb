"""Listings of mappings that no kernel prints: what comes out is what stands there, or BadInput."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from allocscope.errors import BadInput
from allocscope.parse import maps, smaps

FUZZ = settings.get_profile("fuzz")
PATHS = st.one_of(
    st.sampled_from(["", "[heap]", "[stack]", "/lib/a b (deleted)", "/a\\012b", "anon_inode:[x]"]),
    st.text(max_size=40).filter(lambda text: "\n" not in text),
    st.sampled_from(["/1000-2000 rw-p 0 00:00 0 /x", "Rss:  1 kB", "\x1b[31m", "\r", "\x85\u2028"]),
)
ADDRESSES = st.integers(0, (1 << 64) - 1)
LINES = st.tuples(
    st.tuples(ADDRESSES, ADDRESSES),
    st.text(alphabet="rwxsp-", min_size=4, max_size=4),
    st.integers(0, 1 << 48),
    st.integers(0, 1 << 40),
    PATHS,
)
FIGURES = st.lists(
    st.tuples(
        st.sampled_from(["Rss", "Private_Dirty", "LazyFree", "Swap", "Locked", "Unknown_One"]),
        st.integers(0, 1 << 60),
    ),
    max_size=6,
)


def line(made: tuple[tuple[int, int], str, int, int, str]) -> str:
    (start, end), perms, offset, inode, path = made
    return f"{start:08x}-{end:08x} {perms} {offset:08x} fe:00 {inode} {path}\n"


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


@settings(FUZZ)
@given(st.lists(LINES, max_size=8))
def test_every_line_is_one_mapping(made: list[tuple[tuple[int, int], str, int, int, str]]) -> None:
    found = maps.parse(encoded("".join(map(line, made))))
    assert [(m.start, m.end, m.perms, m.offset, m.inode) for m in found] == [
        (*span, perms, offset, inode) for span, perms, offset, inode, _ in made
    ]


@settings(FUZZ)
@given(st.lists(st.tuples(LINES, FIGURES), max_size=6), st.integers(0, 4000), st.binary(max_size=9))
def test_smaps_of_anything(
    made: list[tuple[tuple[tuple[int, int], str, int, int, str], list[tuple[str, int]]]],
    place: int,
    new: bytes,
) -> None:
    text = "".join(
        line(header) + "".join(f"{name}: {size:8d} kB\n" for name, size in figures)
        for header, figures in made
    )
    data = encoded(text)
    whole = all(any(name == "Rss" for name, _ in figures) for _, figures in made)
    with contextlib.suppress(BadInput):
        found = smaps.parse(data)
        assert whole
        assert [entry.mapping.start for entry in found] == [header[0][0] for header, _ in made]
        for entry, (_, figures) in zip(found, made, strict=True):
            assert entry.rss_bytes == dict(figures)["Rss"] * 1024
    broken = data[:place] + new + data[place + len(new) :]
    for parse in (smaps.parse, smaps.rollup, maps.parse):
        with contextlib.suppress(BadInput):
            parse(broken)
