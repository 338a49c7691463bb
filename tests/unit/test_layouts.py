"""The table of layouts: rows that hold together, offsets that are those of the releases, and a
published table that is this one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from glibcs import layout_table
from unit.releases import RELEASES

from allocscope.glibc.layouts import BIN_COUNT, LAYOUTS, MALLOC_DEBUG_LAYOUTS, WORD, Layout

ROOT = Path(__file__).resolve().parents[2]
BY_VERSION = {version: row for row in LAYOUTS for version in row.versions}


def test_every_release_from_2_17_to_2_44_has_one_row() -> None:
    assert sorted(BY_VERSION, key=lambda v: int(v[2:])) == [f"2.{n}" for n in range(17, 45)]
    assert sum(len(row.versions) for row in LAYOUTS) == len(BY_VERSION)
    assert len({row.name for row in LAYOUTS}) == len(LAYOUTS)


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


@pytest.mark.parametrize("row", (*LAYOUTS, *MALLOC_DEBUG_LAYOUTS), ids=lambda row: row.name)
def test_a_row_holds_together(row: Layout) -> None:
    state, par, tcache = row.state, row.par, row.tcache
    assert state.top + 2 * WORD == state.bins
    assert state.last_bin == state.bins + (BIN_COUNT - 1) * 16
    assert state.bins + BIN_COUNT * 16 + 16 <= state.next  # the bitmap lies between
    assert state.max_system_mem + WORD == state.size
    assert (par.tcache_bins is None) == (par.tcache_count is None) == (tcache is None)
    assert par.sbrk_base + WORD <= par.size
    if tcache is not None:
        assert tcache.slot_count * tcache.counter_bytes <= tcache.entries
        assert tcache.size + WORD <= tcache.chunk_sizes[0] <= tcache.size + 3 * WORD


def test_what_is_said_to_be_checked_is_in_the_row_or_a_backport() -> None:
    for row in LAYOUTS:
        for version in re.findall(r"2\.\d+", row.checked):
            assert version in row.versions or version in row.backports


def test_the_published_table_is_this_one() -> None:
    published = (ROOT / "docs" / "support-matrix.md").read_text()
    assert published.endswith(layout_table.text())
