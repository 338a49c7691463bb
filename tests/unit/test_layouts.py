"""The table of layouts: rows that hold together, offsets that are those of the releases, and a
published table that is this one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from glibcs import layout_table
from unit.releases import RELEASES

from allocscope.glibc.abi import NARROW, WIDE
from allocscope.glibc.layouts import (
    BIN_COUNT,
    Layout,
    malloc_debug_rows_of,
    narrow_layouts,
    rows_of,
    wide_layouts,
)
from allocscope.glibc.layouts import (
    RELEASES as ROWS,
)

ROOT = Path(__file__).resolve().parents[2]
BY_VERSION = {version: row for row in wide_layouts() for version in row.versions}
NARROW_BY_VERSION = {version: row for row in narrow_layouts() for version in row.versions}


def test_every_release_from_2_17_to_2_44_has_one_row() -> None:
    assert sorted(BY_VERSION, key=lambda v: int(v[2:])) == [f"2.{n}" for n in range(17, 45)]
    assert BY_VERSION.keys() == NARROW_BY_VERSION.keys()
    assert sum(len(row.versions) for row in wide_layouts()) == len(BY_VERSION)
    for table in (wide_layouts(), narrow_layouts()):
        assert len({row.name for row in table}) == len(table)


STATE_386 = ("fastbins", "fastbin_count", "top", "bins", "next", "attached_threads")
STATES_386 = {  # as the debug information of Debian's and Ubuntu's i386 builds has them
    "2.17": (8, 10, 48, 56, 1088, None, 1096, 1104),
    "2.23": (8, 10, 48, 56, 1088, 1096, 1100, 1108),
    "2.26": (8, 11, 52, 60, 1092, 1100, 1104, 1112),
    "2.27": (12, 11, 56, 64, 1096, 1104, 1108, 1116),
    "2.31": (12, 11, 56, 64, 1096, 1104, 1108, 1116),
    "2.42": (12, 11, 56, 64, 1096, 1104, 1108, 1116),
    "2.43": (None, 0, 8, 16, 1048, 1056, 1060, 1068),
}
PAR_386 = ("n_mmaps", "no_dyn_threshold", "mmapped_mem", "sbrk_base", "tcache_bins", "size")
PARS_386 = {
    "2.23": (20, 32, 36, 48, None, 52),
    "2.26": (20, 32, 36, 44, 48, 64),
    "2.36": (32, 44, 48, 56, 60, 76),
    "2.43": (36, 48, 52, 60, 64, 80),
    "2.44": (36, 48, 52, 60, 64, 76),
}
HEAPS_386 = {"2.17": (16, 0x460), "2.23": (16, 0x468), "2.26": (24, 0x478), "2.43": (24, 0x448)}
TCACHES_386 = {"2.27": (320, 64, 0x150), "2.36": (384, 128, 0x190), "2.43": (456, 152, 0x1D0)}


def test_offsets_of_32_bit_programs() -> None:
    for version, numbers in STATES_386.items():
        state = NARROW_BY_VERSION[version].state
        names = (*STATE_386, "system_mem", "size")
        assert tuple(getattr(state, name) for name in names) == numbers, version
    for version, numbers in PARS_386.items():
        par = NARROW_BY_VERSION[version].par
        assert tuple(getattr(par, name) for name in PAR_386) == numbers, version
    for version, (header, first_chunk) in HEAPS_386.items():
        row = NARROW_BY_VERSION[version]
        assert row.heap_info_bytes == header
        assert row.abi.first_chunk(header + row.state.size) == first_chunk
    for version, (size, entries, chunk) in TCACHES_386.items():
        tcache = NARROW_BY_VERSION[version].tcache
        assert tcache is not None
        assert (tcache.size, tcache.entries, tcache.chunk_sizes[0]) == (size, entries, chunk)


@pytest.mark.parametrize("version", RELEASES)
def test_offsets_are_those_of_the_release(version: str) -> None:
    row, release = BY_VERSION[version], RELEASES[version]
    state = {name: getattr(row.state, name) for name in release.state}
    assert state == release.state
    assert (row.state.attached_threads is None) == ("attached_threads" not in release.state)
    assert row.heap_info_bytes == release.heap_info_bytes
    assert row.mmap_size_is_usable == release.mmap_size_is_usable
    if row.tcache is None:
        assert release.tcache_bins == 0
    else:
        assert row.tcache.slot_count == release.tcache_bins
        assert row.tcache.counter_bytes == release.counter_bytes
        assert release.tcache_chunk in row.tcache.chunk_sizes
        assert row.tcache.key_is_address == (release.key == 0)


@pytest.mark.parametrize(
    "row",
    [row for abi in (WIDE, NARROW) for row in (*rows_of(abi), *malloc_debug_rows_of(abi))],
    ids=lambda row: f"{row.name}-{row.abi.word_bytes}",
)
def test_a_row_holds_together(row: Layout) -> None:
    state, par, tcache = row.state, row.par, row.tcache
    word = row.abi.word_bytes
    assert state.top + 2 * word == state.bins
    assert state.last_bin == state.bins + (BIN_COUNT - 1) * 2 * word
    assert state.bins + BIN_COUNT * 2 * word + 16 <= state.next  # the bitmap lies between
    assert state.max_system_mem + word == state.size
    assert (par.tcache_bins is None) == (par.tcache_count is None) == (tcache is None)
    assert par.sbrk_base + word <= par.size
    if tcache is not None:
        assert tcache.slot_count * tcache.counter_bytes <= tcache.entries
        assert tcache.size + word <= tcache.chunk_sizes[0] <= tcache.size + word + 16


def test_what_is_said_to_be_checked_is_in_the_row_or_a_backport() -> None:
    for row in ROWS:
        for _, checked in row.checked:
            for version in re.findall(r"2\.\d+", checked):
                assert version in row.versions.split() or version in row.backports


def test_the_published_table_is_this_one() -> None:
    published = (ROOT / "docs" / "support-matrix.md").read_text()
    assert published.endswith(layout_table.text())
