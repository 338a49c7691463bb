"""`map` against the kernel's smaps and a program that knows what it mapped."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live import targets
from live.cli import command
from live.pages import kernel_says
from live.programs import READY_SECONDS
from live.test_contract import answer

from allocscope.app.explain import ExplainOptions, explain
from allocscope.app.map import map_process
from allocscope.lab.child import child
from allocscope.lab.fixture import RunningFixture
from allocscope.model.mapview import MapData

DEADLINE_S = 30.0


def read(pid: int, raw: bool = False) -> MapData:
    return map_process(pid, raw=raw, deadline_s=DEADLINE_S).data


@pytest.fixture(scope="module")
def slabs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, dict[str, Any]]]:
    program = targets.compile_c("slabs.c", tmp_path_factory.mktemp("slabs") / "slabs")
    with child([str(program)]) as started:
        said = json.loads(started.line(READY_SECONDS))
        assert started.line(READY_SECONDS) == "ready"
        yield started.pid, said


@pytest.mark.parametrize("name", ["arena-spread", "big-mmaps", "lazyfree", "scattered"])
def test_the_rows_are_all_that_the_kernel_counts(
    name: str, running: Callable[..., RunningFixture]
) -> None:
    pid = running(name, scale=0.5).pid
    data = read(pid, raw=True)
    totals = data.totals
    assert data.rss_bytes == totals.resident_bytes == kernel_says(pid, "Rss")
    assert sum(row.sizes.resident_bytes for row in data.rows) == totals.resident_bytes
    assert sum(row.sizes.virtual_bytes for row in data.rows) == kernel_says(pid, "Size")
    assert totals.private_dirty_bytes in (None, kernel_says(pid, "Private_Dirty"))
    assert totals.lazyfree_bytes in (None, kernel_says(pid, "LazyFree"))
    edges = [(part.start, part.end) for part in data.parts]
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(edges))


def test_mappings_of_large_chunks_are_one_row(running: Callable[..., RunningFixture]) -> None:
    target = running("big-mmaps")
    rows = [row for row in read(target.pid).rows if row.key == "glibc-mmapped"]
    assert sum(row.part_count for row in rows) == target.truth["mmapped_count"]
    assert sum(row.sizes.virtual_bytes for row in rows) == target.truth["mmapped_bytes"]


def test_slabs_of_equal_size_are_one_row_that_tells_how_full(
    slabs: tuple[int, dict[str, Any]],
) -> None:
    pid, said = slabs
    (row,) = [row for row in read(pid).rows if row.slab_bytes == said["slab_bytes"]]
    assert (row.key, row.part_count) == ("unexplained", said["slabs"])
    assert row.sizes.resident_bytes == said["written_bytes"]
    assert row.fill is not None
    assert row.fill.full_count == said["full"]
    assert row.fill.ratios == (1, 1, 1, 1, 1, 1, 1, (4 + 3 + 2 + 1) / 8 / 4)


def test_slabs_that_fill_and_stay_are_a_cause(slabs: tuple[int, dict[str, Any]]) -> None:
    pid, said = slabs
    data = explain(pid, ExplainOptions()).data
    assert data.causes[0].key == "slab-growth"
    assert data.causes[0].exclusive_bytes == said["written_bytes"]
    assert data.causes[0].confidence == "hint"


def test_where_nothing_is_recognised_the_verdict_says_so() -> None:
    program = (
        "import mmap; area = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "area.write(bytes([1]) * (64 << 20)); print('ready', flush=True); input()"
    )
    with targets.running([sys.executable, "-c", program]) as target:
        data = explain(target.pid, ExplainOptions()).data
    assert "healthy" not in {cause.key for cause in data.causes}
    assert "64.0 MiB are unexplained" in data.verdict


def test_a_process_without_glibc_has_a_map(tmp_path: Path) -> None:
    program = targets.compile_c("waits.c", tmp_path / "waits", "-static", compiler="musl-gcc")
    with targets.running([program]) as target:
        report = map_process(target.pid, raw=False, deadline_s=DEADLINE_S)
        assert report.data.totals.resident_bytes == kernel_says(target.pid, "Rss")
        assert [caveat.code for caveat in report.caveats] == ["no-glibc-heap"]
        assert str(program) in {row.owner for row in report.data.rows}


def test_the_json_keeps_its_schema(slabs: tuple[int, dict[str, Any]]) -> None:
    pid, said = slabs
    short, raw = answer("map", str(pid)), answer("map", str(pid), "--raw")
    assert short["data"]["parts"] == []
    assert len(raw["data"]["parts"]) > len(short["data"]["rows"])
    assert said["slab_bytes"] in {row["slab_bytes"] for row in short["data"]["rows"]}


def test_the_table_fits_and_hides_what_it_was_told_to(
    slabs: tuple[int, dict[str, Any]],
) -> None:
    pid, said = slabs
    shown = command("map", str(pid), "--rows", "1")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert max(map(len, shown.stdout.splitlines())) <= 100
    assert f"{said['slabs']} × 1.0 MiB" in shown.stdout
    assert re.search(r"\n  and \d+ more ", shown.stdout)
    lines = command("map", str(pid), "--raw").stdout.count("rw-p")
    assert lines >= said["slabs"]
