"""glibc.malloc.hugetlb: heaps that ask for transparent huge pages, and heaps on hugetlb pages,
whose size and alignment glibc 2.35 to 2.41 derives from the page size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from glibcs.judge import fixture_differences
from live.huge_pages import reserved

from allocscope import observe
from allocscope.app.arenas import ArenasOptions
from allocscope.app.arenas_file import arenas_of_file
from allocscope.app.arenas_frozen import arenas_frozen
from allocscope.app.record import RecordOptions, record
from allocscope.lab.fixture import RunningFixture

NAMES = ["scattered", "pinned-top", "big-mmaps", "arena-spread", "fastbin-hoard"]
PAGES = 200
MAX_PAUSE_NS = 1_000_000_000


def tunable(value: int) -> dict[str, str]:
    return {"GLIBC_TUNABLES": f"glibc.malloc.hugetlb={value}"}


@pytest.fixture(params=["none reserved", "reserved"])
def pool(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether there are hugetlb pages; without any, glibc falls back to plain mappings."""
    pages = PAGES if request.param == "reserved" else 0
    with reserved(pages):
        yield pages > 0


@pytest.mark.parametrize("name", NAMES)
def test_transparent_huge_pages(name: str, running: Callable[..., RunningFixture]) -> None:
    target = running(name, scale=0.4, environment=tunable(1))
    before = observe(target.pid)
    assert fixture_differences(before, target.truth) == []
    target.trim()
    after = observe(target.pid)
    assert after.data.totals.trimmable_bytes == 0
    fallen = before.data.totals.resident_bytes - after.data.totals.resident_bytes
    assert fallen == before.data.totals.trimmable_bytes


@pytest.mark.parametrize("name", NAMES)
def test_hugetlb_pages(name: str, pool: bool, running: Callable[..., RunningFixture]) -> None:
    target = running(name, scale=0.4, environment=tunable(2))
    used = "/anon_hugepage" in Path(f"/proc/{target.pid}/maps").read_text()
    assert used == pool
    report = observe(target.pid)
    assert fixture_differences(report, target.truth) == []
    data = report.data
    held = data.totals.resident_bytes + data.mmapped.resident_bytes
    assert held <= (data.rss_bytes or 0)
    assert ("hugetlb" in [caveat.code for caveat in report.caveats]) == pool
    if pool and name != "big-mmaps":
        assert data.totals.resident_bytes == data.totals.trimmable_bytes == 0


def test_a_recording_says_the_same(
    pool: bool, running: Callable[..., RunningFixture], tmp_path: Path
) -> None:
    target = running("scattered", scale=0.4, environment=tunable(2))
    record(target.pid, tmp_path / "a.rec", RecordOptions())
    found = arenas_of_file(tmp_path / "a.rec", sample=None, deadline_s=30).report
    assert found.data == observe(target.pid).data


@pytest.mark.parametrize("value", [1, 2])
def test_glibc_agrees(value: int, pool: bool, running: Callable[..., RunningFixture]) -> None:
    target = running("scattered", scale=0.4, environment=tunable(value))
    options = ArenasOptions()
    report = arenas_frozen(target.pid, options, ask_glibc=True, max_pause_ns=MAX_PAUSE_NS)
    says = report.data.glibc_says
    assert says is not None
    assert says.agrees, says.differences
