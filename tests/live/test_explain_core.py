"""`explain` and `check` of cores: by what the heap's structure shows they say of a process what
they say of it alive, and nothing of what was resident."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live.cli import ROOT, assert_refused, command
from live.core_files import gdbs_core, kernels_core
from live.programs import READY_SECONDS
from live.test_contract import answer

from allocscope.app.explain import ExplainOptions, portrait
from allocscope.app.explain_core import CorePortrait, portrait_of_core
from allocscope.lab import fixture
from allocscope.lab.child import Child, child
from allocscope.lab.fixture import RunningFixture

Running = Callable[..., RunningFixture]
CORES = [gdbs_core, kernels_core]
STILL = [name for name in fixture.names() if name != "busy"]
FIRST = {
    "scattered": "scattered-live",
    "parked-top": "parked-top",
    "pinned-top": "top-pinned",
    "arena-spread": "arena-spread",
    "tcache-hoard": "tcache-hoard",
    "fastbin-hoard": "fastbin-hoard",
    "big-mmaps": "large-live",
    "healthy": "healthy",
    "dense": "healthy",
}
"""The cause that each fixture is built to show. `lazyfree` shows one that no core tells."""
FREE = ("tcache", "fastbin", "free-whole-pages", "free-shared-pages", "top")
MIB = 1 << 20
PAGE = 4096
SAMPLES = ROOT / "tests" / "samples"


def of_core(path: Path) -> CorePortrait:
    return portrait_of_core(path, ExplainOptions(), exe=None)


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", STILL)
def test_a_core_explains_what_its_process_held(
    name: str,
    core: Callable[[int, Path], Path],
    running: Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without swap, what was in memory or in swap was resident: no fixture leaves whole pages of
    zeros in its chunks."""
    monkeypatch.chdir(tmp_path)
    target = running(name, seed=7)
    report, _ = portrait(target.pid, ExplainOptions())
    alive, threads = report.data, report.process.thread_count
    dead = of_core(core(target.pid, tmp_path)).report.data
    before = {row.key: row for row in alive.ledger}
    after = {row.key: row for row in dead.ledger}
    assert after.keys() == before.keys()
    for key in (*(key for key in before if key.startswith("glibc-")), "runtime-heap"):
        assert after[key].virtual_bytes == before[key].virtual_bytes, key
        assert after[key].nonzero_bytes == before[key].resident_bytes, key
        assert after[key].evidence == before[key].evidence or not before[key].resident_bytes
    assert after["thread-stacks"].virtual_bytes >= before["thread-stacks"].resident_bytes
    if name != "lazyfree":
        assert after["unexplained"].virtual_bytes == 0
        assert dead.causes[0].key == alive.causes[0].key == FIRST[name]
    held = target.truth["live_chunk_bytes"]
    assert held is not None
    own = after["glibc-live"].virtual_bytes - held  # stdio, and a vector for each thread
    assert 0 <= own <= 4 * PAGE + 512 * threads
    for cause in dead.causes:
        assert (cause.confidence, cause.share_of_rss_ratio) == ("inferred", None)
        assert {remedy.gain_is for remedy in cause.remedies} <= {"unknown"}
        if cause.bytes:
            assert "a core does not tell what was resident" in cause.evidence[0]
            [same] = [one for one in alive.causes if one.key == cause.key]
            assert same.bytes <= cause.bytes <= same.bytes + MIB


@pytest.mark.parametrize("core", CORES)
def test_what_was_given_back_counts_only_at_most(
    core: Callable[[int, Path], Path],
    running: Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A trim takes the pages; the free chunks stay, and a core has zeros there."""
    monkeypatch.chdir(tmp_path)
    target = running("arena-spread", seed=2)
    target.trim()
    path = core(target.pid, tmp_path)
    data = of_core(path).report.data
    rows = {row.key: row for row in data.ledger}
    free = rows["glibc-free-whole-pages"]
    assert free.virtual_bytes > 40 * MIB
    assert free.nonzero_bytes == 0
    first = data.causes[0]
    assert first.bytes > 40 * MIB
    assert "of it lie on pages that are not zeros" in first.evidence[0]
    refused = command("check", str(path), "--max-retained", "16MiB")
    assert_refused(refused, 2, "--max-retained cannot be judged from this core", "recording")
    assert "at most 4" in refused.stderr
    kept = command("check", str(path), "--max-retained", "64MiB", "--max-trimmable", "64MiB")
    assert kept.returncode == 0


ZEROS = """
import ctypes, sys
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.memset.argtypes, libc.free.argtypes = [ctypes.c_void_p] + 2 * [ctypes.c_size_t], [
    ctypes.c_void_p]
libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
block, behind = libc.malloc(24 << 20), libc.malloc(1 << 20)
libc.memset(block, 0, 24 << 20)
libc.free(block)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def full_of_zeros(tmp_path: Path) -> Iterator[Child]:
    """A program with 24 MiB free that are resident and zeros."""
    with child(["python3", "-c", ZEROS], environment={"PYTHONMALLOC": "malloc"}) as started:
        assert started.line(READY_SECONDS) == "ready"
        yield started


def test_zeros_that_were_resident_are_not_denied(full_of_zeros: Child, tmp_path: Path) -> None:
    pid = full_of_zeros.pid
    alive = portrait(pid, ExplainOptions())[0].data
    resident = {row.key: row.resident_bytes for row in alive.ledger}["glibc-free-whole-pages"]
    assert resident > 23 * MIB
    data = of_core(gdbs_core(pid, tmp_path)).report.data
    row = {row.key: row for row in data.ledger}["glibc-free-whole-pages"]
    assert row.nonzero_bytes is not None
    assert row.nonzero_bytes < MIB < 23 * MIB < row.virtual_bytes
    assert data.causes[0].bytes > 23 * MIB


def test_holes_in_the_file_change_nothing(running: Running, tmp_path: Path) -> None:
    path = gdbs_core(running("scattered", seed=1).pid, tmp_path)
    answers = []
    for how in ("always", "never"):
        copy = tmp_path / how
        subprocess.run(["cp", f"--sparse={how}", str(path), str(copy)], check=True)
        answers.append(of_core(copy).report.data)
    assert answers[0] == answers[1]
    sizes = [(tmp_path / how).stat().st_blocks for how in ("always", "never")]
    assert sizes[0] < sizes[1]


# ---- check ----


def judged(*words: str, status: int) -> Any:
    done = command("check", *words, "--json")
    assert (done.returncode, done.stderr) == (status, "")
    return json.loads(done.stdout)["data"]["limits"]


def test_check_decides_where_both_bounds_agree(running: Running, tmp_path: Path) -> None:
    target = running("scattered", seed=3)
    path = str(gdbs_core(target.pid, tmp_path))
    parked = (target.truth["free_bytes"], target.truth["tcache_bytes"])
    free = sum(part for part in parked if part is not None)
    [over, under] = judged(path, "--max-retained", str(free // 2), "--max-arenas", "99", status=1)
    assert (over["exceeded"], under["exceeded"]) == (True, False)
    assert over["found"] == pytest.approx(free, rel=0.05)
    assert over["causes"][0]["key"] == "scattered-live"
    assert "in memory or in swap" in over["says"][0]
    [kept] = judged(path, "--max-retained", str(2 * free), status=0)
    assert over["found"] <= kept["found"] <= 2 * free
    for name, most in (
        ("--max-footprint", "1MiB"),
        ("--max-unexplained-ratio", "5%"),
        ("--max-retained-ratio", "5%"),
    ):
        refused = command("check", path, name, most)
        assert_refused(refused, 2, f"{name} cannot be judged from a core", "running")


# ---- the command ----


def test_the_command_explains_a_core(running: Running, tmp_path: Path) -> None:
    pid = running("pinned-top", seed=3).pid
    path, page = str(gdbs_core(pid, tmp_path)), tmp_path / "page.html"
    told = answer("explain", path)
    data = told["data"]
    assert told["method"]["source"] == "core"
    assert data["rss_bytes"] is data["drift_bytes"] is data["outside_rss"] is None
    assert {row["resident_bytes"] for row in data["ledger"]} == {None}
    assert data["causes"][0]["key"] == "top-pinned"
    shown = command(path, "--html", str(page))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert max(map(len, shown.stdout.splitlines())) <= 100
    flat = " ".join(shown.stdout.split())
    assert flat.startswith(f"pinned-top (pid {pid}) held 48.1 MiB in malloc, of which")
    assert "a core does not tell what was resident" in flat
    assert " resident, " not in flat
    text = page.read_text()
    assert "What was mapped, by owner" in text
    assert "RSS, every byte in one row" not in text
    assert page.stat().st_mode & 0o777 == 0o600


def test_a_python_has_its_own_heap_in_the_core(tmp_path: Path) -> None:
    code = "import sys; kept = [{i: i} for i in range(50000)]; print('ready', flush=True); "
    with child(["python3", "-c", code + "sys.stdin.read()"]) as program:
        assert program.line(READY_SECONDS) == "ready"
        alive = portrait(program.pid, ExplainOptions())[0].data
        dead = of_core(gdbs_core(program.pid, tmp_path)).report.data
    before = {row.key: row.virtual_bytes for row in alive.ledger}
    after = {row.key: row.virtual_bytes for row in dead.ledger}
    assert after["runtime-heap"] == before["runtime-heap"] > 8 * MIB
    assert after["unexplained"] == before["unexplained"]


@pytest.mark.parametrize("version", ["2.27", "2.39"])
def test_cores_of_glibcs_that_are_not_here(version: str) -> None:
    """Without libraries and most of what is not malloc's, yet every chunk has its row. What the
    program held is in the last line beside the sample (usable sizes: 8 less than a chunk)."""
    data = answer("explain", str(SAMPLES / f"glibc-{version}.core.xz"))["data"]
    rows = {row["key"]: row for row in data["ledger"]}
    last = (SAMPLES / f"glibc-{version}.malloc_info.xml").read_text().splitlines()[-1]
    usable = int(next(word for word in last.replace("=", " ").split() if word.isdigit()))
    held = rows["glibc-live"]["virtual_bytes"] + rows["glibc-mmapped"]["virtual_bytes"]
    assert 0 < held - usable < 0.1 * held
    assert data["rss_bytes"] is None
    assert rows["thread-stacks"]["virtual_bytes"] > 0
