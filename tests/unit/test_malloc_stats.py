"""malloc_stats' parser: real text, every truncation, garbage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocscope.errors import BadInput
from allocscope.model.glibc_says import MallocStats, StatsArena
from allocscope.parse.malloc_stats import parse

TEXT = b"""Arena 0:
system bytes     =     135168
in use bytes     =       5024
Arena 1:
system bytes     = 4294967295
in use bytes     =       3680
Total (incl. mmap):
system bytes     =     135167
in use bytes     =       8704
max mmap regions =          1
max mmap bytes   = 5368713216
"""
WORD = st.integers(0, (1 << 32) - 1)


def render(stats: MallocStats) -> bytes:
    """The text that glibc's printf formats make of these figures."""
    lines = []
    for arena in stats.arenas:
        lines += [
            f"Arena {arena.index}:",
            f"system bytes     = {arena.system_bytes:10d}",
            f"in use bytes     = {arena.in_use_bytes:10d}",
        ]
    lines += [
        "Total (incl. mmap):",
        f"system bytes     = {stats.total_system_bytes:10d}",
        f"in use bytes     = {stats.total_in_use_bytes:10d}",
        f"max mmap regions = {stats.max_mmap_regions:10d}",
        f"max mmap bytes   = {stats.max_mmap_bytes:10d}",
    ]
    return "".join(line + "\n" for line in lines).encode()


def test_reads_every_figure() -> None:
    assert parse(TEXT) == MallocStats(
        arenas=(StatsArena(0, 135168, 5024), StatsArena(1, 4294967295, 3680)),
        total_system_bytes=135167,
        total_in_use_bytes=8704,
        max_mmap_regions=1,
        max_mmap_bytes=5368713216,
    )


@given(st.lists(st.tuples(WORD, WORD), min_size=1, max_size=20), WORD, st.integers(0, 2**64 - 1))
def test_reads_what_glibc_formats(arenas: list[tuple[int, int]], word: int, long: int) -> None:
    rows = tuple(StatsArena(i, system, used) for i, (system, used) in enumerate(arenas))
    stats = MallocStats(rows, word, word, word, long)
    assert parse(render(stats)) == stats


def test_every_truncation_is_told() -> None:
    for length in range(len(TEXT)):
        with pytest.raises(BadInput, match="malloc_stats' text"):
            parse(TEXT[:length])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT.replace(b"Arena 1", b"Arena 2"), "line 4: 'Arena 1:'"),
        (TEXT.replace(b"=     135168", b"=         -1"), "line 2"),
        (TEXT.replace(b"4294967295", b"4294967296"), "line 5: 4294967296 is more"),
        (TEXT.replace(b"5368713216", b"99999999999999999999"), "line 11"),
        (TEXT + b"more\n", "line 12: text after the end"),
        (TEXT[TEXT.index(b"Total") :], "line 1: totals without any arena"),
        (b"___ Begin jemalloc statistics ___\n", "line 1"),
    ],
)
def test_broken_texts(text: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        parse(text)


@given(st.binary(max_size=300))
def test_only_bad_input_escapes_garbage(text: bytes) -> None:
    with pytest.raises(BadInput):
        parse(text)
