"""Pages held by MADV_FREE: how many, which, whose, and what a reclaim takes and leaves.

The truth is the program's own arithmetic (it knows what it marked and what it wrote to again), and
the kernel's: LazyFree, Rss and page states, read here.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from live import pages
from live.bad_targets import preloadable
from live.cli import assert_refused, command, unharmed
from live.pages import kernel_says
from live.swap import swap
from live.targets import become_nobody, compile_c, in_fork, need_root, wait_until
from live.test_contract import answer
from torture import lazyfree_race

from allocscope.app.footprint import Selection, footprint
from allocscope.app.lazyfree import lazyfree
from allocscope.app.reclaim import reclaim
from allocscope.cli.group import run
from allocscope.lab.child import Child, child
from allocscope.lab.fixture import RunningFixture
from allocscope.proc import refusal
from allocscope.proc.pages import FrameFlags

PAGE = 4096
MIB = 1 << 20
FREED_BY_ALLOCATORS = 24 * MIB
FEWER_THAN_A_BATCH = 12
LAGGING_PAGES = 64  # marked pages wait in a batch of each processor (15 pages, since Linux 6.13 31)


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    """targets/lazy.c, where every user can run it."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield compile_c("lazy.c", Path(directory) / "lazy")


@contextlib.contextmanager
def lazy(
    program: Path, kind: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[Child, dict[str, int]]]:
    with child([str(program), kind], environment) as started:
        yield started, json.loads(started.line(60))


def wrong_bytes(target: Child) -> int:
    """What the program finds damaged of the memory that it had not given back."""
    target.send(b"\n")
    return int(json.loads(target.line(60))["wrong_bytes"])


def need_frames() -> None:
    frames = FrameFlags.open_if_allowed()
    if frames is None:
        pytest.skip("needs CAP_SYS_ADMIN in the initial user namespace to see page frames")
    frames.close()


def need_reclaim() -> None:
    need_frames()
    if not refusal.holds(refusal.CAP_SYS_NICE):
        pytest.skip("needs CAP_SYS_NICE to reclaim")


def test_the_fixture_knows_how_much(running: Callable[..., RunningFixture]) -> None:
    need_frames()
    fixture = running("lazyfree")
    report = lazyfree(fixture.pid)
    assert report.data.lazyfree_bytes == fixture.truth["lazyfree_bytes"]
    assert report.data.rss_bytes == kernel_says(fixture.pid, "Rss")
    assert report.data.exact
    assert report.data.rewritten_bytes == 0
    assert [m.owner.name for m in report.data.mappings] == ["unknown"]
    assert not report.caveats


@pytest.mark.parametrize("kind", ["rewritten", "locked", "forked", "holes"])
def test_what_was_marked_and_what_was_rewritten(program: Path, kind: str) -> None:
    need_frames()
    with lazy(program, kind) as (target, truth):
        [mapping] = lazyfree(target.pid).data.mappings
        assert mapping.start <= truth["area"] < mapping.end
        held = truth["marked_bytes"] - truth["rewritten_bytes"]
        assert mapping.lazyfree_bytes == held
        assert mapping.rewritten_bytes == truth["rewritten_bytes"]
        assert mapping.locked == (kind == "locked")


def test_a_rewritten_page_is_seen_page_by_page(program: Path) -> None:
    """Marked ranges, as the frames tell them, are those that the program marked, to the page."""
    need_frames()
    from allocscope.proc.memory import ProcessMemory

    with lazy(program, "holes") as (target, truth), ProcessMemory(target.pid) as memory:
        end = truth["area"] + truth["area_bytes"]
        frames = FrameFlags.open_if_allowed()
        assert frames is not None
        with frames:
            found = [run for batch in frames.lazy_runs(memory, truth["area"], end) for run in batch]
    expected = range(truth["area"], end, 2 * PAGE)
    assert found == [(page, page + PAGE) for page in expected]


@pytest.mark.parametrize("kind", ["rewritten", "holes", "huge"])
def test_reclaim_takes_them_all_and_nothing_else(program: Path, kind: str) -> None:
    need_reclaim()
    with lazy(program, kind) as (target, truth):
        rss, huge = kernel_says(target.pid, "Rss"), kernel_says(target.pid, "AnonHugePages")
        held = kernel_says(target.pid, "LazyFree")
        assert held == truth["marked_bytes"] - truth["rewritten_bytes"]
        report = reclaim(target.pid)
        done = report.data.reclaimed
        assert done is not None
        assert (done.released_bytes, done.swapped_bytes) == (held, 0)
        assert done.advised_bytes == truth["marked_bytes"]
        assert (done.rss_before_bytes, done.rss_after_bytes) == (rss, rss - held)
        assert (done.lazyfree_before_bytes, done.lazyfree_after_bytes) == (held, 0)
        assert kernel_says(target.pid, "Rss") == rss - held
        if huge:  # the live ones are whole
            assert kernel_says(target.pid, "AnonHugePages") == huge - held
        assert wrong_bytes(target) == 0
        again = reclaim(target.pid).data
        assert again.reclaimed is not None
        assert (again.lazyfree_bytes, again.reclaimed.advised_bytes) == (0, 0)


def test_pages_that_cannot_be_taken_are_left_and_named(program: Path) -> None:
    need_reclaim()
    for kind, code in (("locked", "locked"), ("forked", "left")):
        with lazy(program, kind) as (target, truth):
            report = reclaim(target.pid)
            done = report.data.reclaimed
            assert done is not None
            assert done.released_bytes == 0
            assert done.lazyfree_after_bytes == truth["marked_bytes"]
            assert [caveat.code for caveat in report.caveats] == [code]
            assert wrong_bytes(target) == 0


def gives_back(directory: Path, library: str, settings: Mapping[str, str]) -> Any:
    """gives_back.c under another allocator."""
    program = compile_c("gives_back.c", directory / "gives_back")
    return child([str(program)], {"LD_PRELOAD": preloadable(library), **settings})


@pytest.mark.parametrize(
    ("library", "owner", "settings"),
    [
        (
            "libjemalloc.so.2",
            "jemalloc",
            {"MALLOC_CONF": "background_thread:true,dirty_decay_ms:1,muzzy_decay_ms:-1"},
        ),
        (
            "libmimalloc.so.2",
            "mimalloc",
            {
                "MIMALLOC_ALLOW_DECOMMIT": "0",
                "MIMALLOC_PAGE_RESET": "1",
                "MIMALLOC_DECOMMIT_DELAY": "0",
            },
        ),
    ],
)
def test_the_owner_is_known_by_its_structures(
    tmp_path: Path, library: str, owner: str, settings: Mapping[str, str]
) -> None:
    with gives_back(tmp_path, library, settings) as target:
        assert target.line(60) == "ready"

        def given_back() -> bool:
            target.send(b"\n")
            assert target.line(60) == "done"
            held = kernel_says(target.pid, "LazyFree")
            return held >= FREED_BY_ALLOCATORS - MIB - LAGGING_PAGES * PAGE

        wait_until(given_back)
        before = kernel_says(target.pid, "LazyFree")
        data = lazyfree(target.pid).data
        assert before <= data.lazyfree_bytes <= kernel_says(target.pid, "LazyFree")
        own = sum(m.lazyfree_bytes for m in data.mappings if m.owner.name == owner)
        assert own == data.lazyfree_bytes
        assert all(m.owner.evidence for m in data.mappings)
        assert data.owners[0].name == owner


@pytest.mark.parametrize("library", ["libjemalloc.so.2", "libmimalloc.so.2"])
def test_a_library_that_is_loaded_owns_nothing(program: Path, library: str) -> None:
    """The program marks a mapping of its own; who serves malloc has no part in it."""
    with lazy(program, "rewritten", {"LD_PRELOAD": preloadable(library)}) as (target, truth):
        [mapping] = [
            m for m in lazyfree(target.pid).data.mappings if m.start <= truth["area"] < m.end
        ]
        assert mapping.lazyfree_bytes == truth["marked_bytes"] - truth["rewritten_bytes"]
        assert mapping.owner.name == "unknown"


def test_without_privileges_smaps_is_all_there_is(program: Path) -> None:
    need_root()

    def as_nobody() -> str:
        become_nobody()
        with lazy(program, "rewritten") as (target, truth):
            report = lazyfree(target.pid)
            [mapping] = report.data.mappings
            assert mapping.lazyfree_bytes == truth["marked_bytes"] - truth["rewritten_bytes"]
            assert (report.data.exact, mapping.rewritten_bytes) == (False, None)
            [caveat] = report.caveats
            status = run(["lazyfree", str(target.pid), "--reclaim"])
            assert wrong_bytes(target) == 0
            return f"{status} {caveat.code} {caveat.message}"

    said = in_fork(as_nobody)
    assert said.startswith("4 pages-not-seen "), said
    assert "CAP_SYS_ADMIN" in said


def test_a_missing_capability_is_named(program: Path) -> None:
    need_reclaim()
    with lazy(program, "rewritten") as (target, truth):
        for capability in ("sys_nice", "sys_admin"):
            wrapper = ["setpriv", f"--bounding-set=-{capability}"]
            done = command("lazyfree", str(target.pid), "--reclaim", wrapper=wrapper)
            assert_refused(done, 4, f"CAP_{capability.upper()}", "root")
        held = truth["marked_bytes"] - truth["rewritten_bytes"]
        assert kernel_says(target.pid, "LazyFree") == held


def test_processes_that_are_not_there_or_hold_nothing() -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert command("lazyfree", str(ended.pid)).returncode == 3
    assert command("lazyfree", "nonsense").returncode == 9
    shown = command("lazyfree", str(os.getpid()))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "MADV_FREE" in shown.stdout.splitlines()[0]


def test_the_schema_is_kept(program: Path) -> None:
    need_reclaim()
    with lazy(program, "rewritten") as (target, truth):
        before = answer("lazyfree", str(target.pid))["data"]
        assert before["reclaimed"] is None
        assert before["rewritten_bytes"] == truth["rewritten_bytes"]
        after = answer("lazyfree", str(target.pid), "--reclaim")
        assert after["method"]["source"] == "live"
        assert after["data"]["reclaimed"]["released_bytes"] == before["lazyfree_bytes"]


@pytest.mark.parametrize(("checks", "swapping"), [(10_000_000, False), (1_000_000, True)])
def test_not_one_wrong_byte_while_a_program_frees_and_rewrites(
    tmp_path: Path, checks: int, swapping: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Raises Harmed for the first."""
    need_reclaim()
    with swap() if swapping else contextlib.nullcontext():
        row = lazyfree_race.race(lazyfree_race.build(tmp_path), checks, swap=swapping)
    with capsys.disabled():
        print(f"\n{row.checks} checks, {row.wrong} wrong, {row.marked_pages} pages marked, "
              f"{row.vanished_pages} found gone, {row.reclaims} reclaims", end="")  # fmt: skip
    assert row.checks >= checks
    assert row.released_bytes and row.vanished_pages and row.rewritten_pages


def test_pages_that_another_processor_has_put_aside_are_taken_too(program: Path) -> None:
    """Read again and again from outside, a page counts as active; until the processor that read it
    has sorted a batch of such pages, it holds them, and the kernel's reclaim passes them over."""
    need_reclaim()
    mine = os.sched_getaffinity(0)
    with lazy(program, "holes") as (target, truth):
        held = kernel_says(target.pid, "LazyFree")
        try:
            os.sched_setaffinity(0, {min(mine)})
            with open(f"/proc/{target.pid}/mem", "rb", 0) as memory:
                for _ in range(3):
                    for page in range(FEWER_THAN_A_BATCH):
                        memory.seek(truth["area"] + 2 * PAGE * page)
                        assert memory.read(1)
            os.sched_setaffinity(0, {max(mine)})
            done = reclaim(target.pid).data.reclaimed
        finally:
            os.sched_setaffinity(0, mine)
        assert done is not None
        assert (done.released_bytes, done.lazyfree_after_bytes) == (held, 0)
        assert wrong_bytes(target) == 0


@pytest.mark.parametrize("kind", ["rewritten", "holes"])
def test_where_there_is_swap_nothing_that_is_in_use_goes_there(program: Path, kind: str) -> None:
    need_reclaim()
    with swap(), lazy(program, kind) as (target, truth):
        held = kernel_says(target.pid, "LazyFree")
        assert held == truth["marked_bytes"] - truth["rewritten_bytes"]
        done = reclaim(target.pid).data.reclaimed
        assert done is not None
        assert (done.released_bytes, done.lazyfree_after_bytes) == (held, 0)
        assert kernel_says(target.pid, "Swap") == 0
        assert wrong_bytes(target) == 0


def used(pid: int, start: int, count: int) -> list[int]:
    """Which of every other page from ``start`` on the kernel takes for used: its marks REFERENCED
    and ACTIVE (Documentation/admin-guide/mm/pagemap.rst)."""
    found = []
    with open(f"/proc/{pid}/pagemap", "rb", 0) as pagemap, open("/proc/kpageflags", "rb", 0) as all:
        for page in range(start, start + 2 * count * PAGE, 2 * PAGE):
            pagemap.seek(page // PAGE * 8)
            frame = int.from_bytes(pagemap.read(8), "little") & ((1 << 55) - 1)
            all.seek(frame * 8)
            found.append(int.from_bytes(all.read(8), "little") & (1 << 2 | 1 << 6))
    return found


def test_looking_is_no_use_of_a_lazily_freed_page(program: Path) -> None:
    """The kernel would keep such a page for longer than the others."""
    need_frames()
    with lazy(program, "holes") as (target, truth):
        count = truth["marked_bytes"] // PAGE
        before = used(target.pid, truth["area"], count)
        lazyfree(target.pid)
        assert used(target.pid, truth["area"], count) == before


@pytest.mark.parametrize("library", ["", "libjemalloc.so.2", "libmimalloc.so.2"])
def test_looking_changes_nothing(program: Path, library: str) -> None:
    """No page of the process comes into memory or goes, and no thread of it is disturbed, though
    its allocators' structures are read."""
    preloaded = {"LD_PRELOAD": preloadable(library)} if library else {}
    with lazy(program, "rewritten", preloaded) as (target, _):
        before = pages.everything(target.pid)
        with unharmed(target.pid):
            lazyfree(target.pid)
            assert footprint(Selection((target.pid,)), retained=True).data.rows
        assert pages.everything(target.pid) == before
