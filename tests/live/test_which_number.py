"""docs/which-number.md: which metric counts which memory, cell by cell.

A program makes 6 MiB of one kind of memory; every metric of `footprint` is read before and after.
What it grew by, as a share of those 6 MiB, is the cell: all, half, or nothing. The table in the
docs must say the same, row for row.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.swap import swap
from live.targets import compile_c

from allocscope.app.footprint import Selection, footprint
from allocscope.lab.child import child
from allocscope.model.footprint import Footprint

PAGE = Path(__file__).resolve().parents[2] / "docs" / "which-number.md"
SIZE = 6 << 20
SHARES = {0: "–", 1: "half", 2: "all"}
TOLERANCE = 1 / 8  # of half of it: the program's own pages, and counters that lag

METRICS = {
    "RSS": "rss_bytes",
    "peak": "peak_rss_bytes",
    "PSS": "pss_bytes",
    "USS": "uss_bytes",
    "dirty": "private_dirty_bytes",
    "swap": "swap_bytes",
    "swap PSS": "swap_pss_bytes",
    "lazyfree": "lazyfree_bytes",
    "footprint": "footprint_bytes",
}

KINDS = {
    "heap": "heap, written",
    "stack": "stack, used once",
    "file-private-clean": "private mapping of a file, read",
    "file-private-dirty": "private mapping of a file, written",
    "file-shared-clean": "shared mapping of a file, read",
    "file-shared-dirty": "shared mapping of a file, written",
    "file-unmapped": "file written with write(2)",
    "tmpfs-mapped": "file on tmpfs, mapped and written",
    "tmpfs-unmapped": "file on tmpfs, written with write(2)",
    "shared-anonymous": "shared anonymous memory, written",
    "cow-after-fork": "heap shared with a forked child",
    "madv-free": "given back with MADV_FREE",
    "madv-dontneed": "given back with MADV_DONTNEED",
    "swapped": "heap, swapped out",
    "shared-swapped": "shared anonymous memory, swapped out",
    "huge": "transparent huge pages",
    "mlocked": "locked with mlock, never touched",
    "untouched": "mapped, never touched",
    "read-only-touched": "mapped, read, never written",
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c("kinds.c", tmp_path_factory.mktemp("targets") / "kinds")


def row(pid: int) -> Footprint:
    [found] = footprint(Selection((pid,)), retained=False).data.rows
    return found


@contextlib.contextmanager
def surroundings(kind: str) -> Iterator[None]:
    """What a kind needs of the machine."""
    huge = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if kind == "huge" and (not huge.exists() or "[never]" in huge.read_text()):
        pytest.skip("this kernel has no transparent huge pages, or they are off")
    if kind.startswith("file") and file_system("/var/tmp") in ("tmpfs", "ramfs"):
        pytest.skip("this kernel has no disk behind /var/tmp")
    with swap() if kind.endswith("swapped") else contextlib.nullcontext():
        yield


def file_system(path: str) -> str:
    """The type of the file system that a directory is on."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    around = [m for m in mounts if f"{path}/".startswith(f"{m[1].rstrip('/')}/")]
    return max(around, key=lambda mount: len(mount[1]))[2]


def measured(program: Path, kind: str) -> list[str]:
    """The cells of one row."""
    with surroundings(kind), child([str(program), kind, "/var/tmp"]) as target:
        assert target.line(60) == "ready"
        before = row(target.pid)
        target.send(b"\n")
        assert target.line(60) == "made"
        after = row(target.pid)
    return [_share(before, after, name) for name in METRICS.values()]


def _share(before: Footprint, after: Footprint, name: str) -> str:
    halves = 2 * (getattr(after, name) - getattr(before, name)) / SIZE
    nearest = min(SHARES, key=lambda whole: abs(whole - halves))
    assert abs(nearest - halves) < 2 * TOLERANCE, f"{name} grew by {halves / 2:.3f} of it"
    return SHARES[nearest]


def documented() -> dict[str, list[str]]:
    """The rows of the table in the docs, by what stands in their first cell."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0][1:] == list(METRICS)
    return {cells[0]: cells[1:] for cells in rows[2:]}


@pytest.mark.parametrize("kind", KINDS)
def test_every_cell_is_what_the_kernel_counts(program: Path, kind: str) -> None:
    assert documented()[KINDS[kind]] == measured(program, kind)


def test_the_table_has_a_row_for_every_kind_and_no_other() -> None:
    assert list(documented()) == list(KINDS.values())
