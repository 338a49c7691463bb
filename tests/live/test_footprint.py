"""footprint: every figure is the kernel's, sums and trees add up, and nobody is silently left out.

The truth is read from /proc here, from processes that stand still, and from the fixtures' own
arithmetic.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live.cli import ROOT, assert_refused, command
from live.targets import (
    READY_SECONDS,
    become_nobody,
    compile_c,
    in_fork,
    need_root,
    only_child,
    wait_until,
)
from live.targets import running as running_c
from live.test_contract import answer

from allocscope.app import retained as app_retained
from allocscope.app.arenas import ArenasOptions, arenas
from allocscope.app.footprint import Selection, everyone, footprint, tree_of
from allocscope.app.target import Target, find_malloc
from allocscope.cli import footprint as cli_footprint
from allocscope.cli.group import run
from allocscope.glibc.locate import Located
from allocscope.glibc.protocols import Memory
from allocscope.lab.child import Child, child
from allocscope.lab.fixture import RunningFixture
from allocscope.model.footprint import Footprint
from allocscope.model.libc import LibcImage
from allocscope.render import footprint as page
from allocscope.render import json as json_page

LOADED = (cli_footprint, page, json_page)
"""What the command loads late: another user may not be able to read it."""

FIELDS = {
    "rss_bytes": "Rss",
    "pss_bytes": "Pss",
    "private_dirty_bytes": "Private_Dirty",
    "swap_bytes": "Swap",
    "swap_pss_bytes": "SwapPss",
    "lazyfree_bytes": "LazyFree",
}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Static: what others do must not change its share of a library's pages."""
    return compile_c("kinds.c", tmp_path_factory.mktemp("targets") / "kinds", "-static")


def made(started: Child) -> int:
    """The pid of a kinds.c that has made its memory."""
    assert started.line(60) == "ready"
    started.send(b"\n")
    assert started.line(60) == "made"
    return started.pid


@pytest.fixture
def parent(program: Path) -> Iterator[int]:
    """A process with a forked child, with which it shares its heap."""
    with child([str(program), "cow-after-fork", "/var/tmp"]) as started:
        pid = made(started)
        wait_until(lambda: _state(only_child(pid)) == "S")
        yield pid


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def lines(pid: int, name: str) -> dict[str, int]:
    """The sizes in a file of /proc, in bytes."""
    text = Path(f"/proc/{pid}/{name}").read_text()
    return {key: int(kib) * 1024 for key, kib in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.M)}


def rows(*pids: int, chosen: tuple[int, ...] = ()) -> dict[int, Footprint]:
    return {row.pid: row for row in footprint(Selection(pids, chosen), retained=False).data.rows}


def told_twice_alike(pid: int) -> tuple[Footprint, dict[str, int]]:
    """Our row and the kernel's figures of the same time: PSS falls when anybody at all maps libc,
    and rises when he ends."""
    while True:
        before = lines(pid, "smaps_rollup")
        row = rows(pid)[pid]
        if lines(pid, "smaps_rollup") == before:
            return row, before


def test_every_figure_is_the_kernels(parent: int) -> None:
    for pid in (parent, only_child(parent)):
        row, rollup = told_twice_alike(pid)
        status = lines(pid, "status")
        for field, name in FIELDS.items():
            assert getattr(row, field) == rollup[name], field
        assert row.uss_bytes == rollup["Private_Clean"] + rollup["Private_Dirty"]
        assert row.peak_rss_bytes == status["VmHWM"]
        assert row.page_table_bytes == status["VmPTE"]
        held = rollup["Pss_Anon"] + rollup["Pss_Shmem"] + rollup["SwapPss"]
        assert row.footprint_bytes == held - rollup["LazyFree"] + status["VmPTE"]


def test_a_tree_is_a_process_with_its_descendants(parent: int) -> None:
    forked = only_child(parent)
    assert tree_of(parent) == (parent, forked)
    found = rows(parent, forked)
    assert found[parent].footprint_bytes and found[forked].footprint_bytes
    both = found[parent].footprint_bytes + found[forked].footprint_bytes
    assert found[parent].tree_footprint_bytes == both
    assert found[forked].tree_footprint_bytes == found[forked].footprint_bytes
    alone = rows(parent)[parent]  # its child need not be among the rows
    assert alone.tree_footprint_bytes == both
    assert found[forked].ppid == parent


def test_totals_are_the_sums_of_the_rows(parent: int) -> None:
    data = answer("footprint", "--tree", str(parent))["data"]
    assert {row["pid"] for row in data["rows"]} == {parent, only_child(parent)}
    for name, total in data["totals"].items():
        values = [row[name] for row in data["rows"]]
        assert total == (None if None in values else sum(values)), name


def test_everyone_is_found(parent: int) -> None:
    assert {parent, only_child(parent)} <= set(everyone())
    assert os.getpid() not in everyone()
    data = answer("footprint", "--name", "^kinds$")["data"]
    assert {parent, only_child(parent)} <= {row["pid"] for row in data["rows"]}
    done = command("footprint", "--all", "--json")
    assert done.returncode in (0, 6)  # 6: some may not be read, as root in a container
    everybody = json.loads(done.stdout)["data"]
    assert {parent, os.getpid()} <= {row["pid"] for row in everybody["rows"]}
    assert all(row["rss_bytes"] for row in everybody["rows"])


def test_a_cgroup_is_its_processes(parent: int) -> None:
    need_root()
    for mount in map(str.split, Path("/proc/mounts").read_text().splitlines()):
        if mount[2] in ("cgroup", "cgroup2"):
            group = Path(mount[1]) / f"allocscope-footprint-{os.getpid()}"
            break
    else:
        pytest.skip("this kernel has no control groups mounted")
    try:
        group.mkdir()
    except OSError:
        pytest.skip("needs CAP_SYS_ADMIN to make a control group")
    try:
        (group / "cgroup.procs").write_text(str(parent))
        found = answer("footprint", "--cgroup", str(group))["data"]["rows"]
        assert [row["pid"] for row in found] == [parent]
        (group.parent / "cgroup.procs").write_text(str(parent))
    finally:
        group.rmdir()


@pytest.mark.parametrize(("sort", "key"), [("rss", "rss_bytes"), ("footprint", "footprint_bytes")])
def test_the_largest_come_first(parent: int, sort: str, key: str) -> None:
    pids = [str(parent), str(only_child(parent)), str(os.getpid())]
    found = answer("footprint", *pids, "--sort", sort)["data"]["rows"]
    values = [row[key] for row in found]
    assert values == sorted(values, reverse=True)
    by_pid = answer("footprint", *pids, "--sort", "pid")["data"]["rows"]
    assert [row["pid"] for row in by_pid] == sorted(map(int, pids))


def test_those_that_are_gone_are_counted(parent: int) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    found = footprint(Selection((), (parent, ended.pid)), retained=False)
    assert [row.pid for row in found.data.rows] == [parent]
    assert found.data.vanished_count == 1
    assert [caveat.code for caveat in found.caveats] == ["vanished"]
    asked = footprint(Selection((parent, ended.pid)), retained=False).data
    assert [(failure.pid, failure.exit_code) for failure in asked.failed] == [(ended.pid, 3)]
    assert command("footprint", str(parent), str(ended.pid)).returncode == 3
    assert_refused(command("footprint", str(ended.pid)), 3, str(ended.pid), "ended")


def test_those_that_may_not_be_read_keep_what_everybody_sees(parent: int) -> None:
    need_root()

    def as_nobody() -> str:
        become_nobody()
        found = footprint(Selection((parent,)), retained=True)
        [row] = found.data.rows
        assert row.rss_bytes == lines(parent, "status")["VmRSS"]
        assert row.page_table_bytes == lines(parent, "status")["VmPTE"]
        assert (row.pss_bytes, row.footprint_bytes, row.retained_bytes) == (None, None, None)
        assert found.data.totals.rss_bytes == 0
        status = run(["footprint", str(parent), "--json", "--output", os.devnull])
        return f"{status} {found.data.forbidden_count} {found.caveats[0].message}"

    said = in_fork(as_nobody)
    assert said.startswith("6 1 "), said
    assert "CAP_SYS_PTRACE" in said


def test_wrong_usage() -> None:
    for words in ([], ["--all", "1"], ["--tree", "x"], ["1", "--sort", "retained"]):
        assert command("footprint", *words).returncode == 2, words
    assert command("footprint", "--name", "no such process here").returncode == 3


@pytest.mark.parametrize("name", ["scattered", "pinned-top", "healthy", "big-mmaps"])
def test_retained_lies_between_what_the_fixture_freed_and_what_glibc_has_free(
    name: str, running: Callable[..., RunningFixture]
) -> None:
    """Freed chunks have all been written to, so those in bins are resident; glibc's own count of
    free bytes has tops in it that were never touched."""
    fixture = running(name)
    [row] = footprint(Selection((fixture.pid,)), retained=True).data.rows
    truth = {key: value or 0 for key, value in fixture.truth.items()}
    assert row.retained_bytes is not None
    assert row.retained_bytes <= truth["free_bytes"] - truth["fastbin_bytes"]
    parked = truth["tcache_bytes"] + truth["fastbin_bytes"]
    assert row.retained_bytes >= truth["freed_bytes"] - parked


def test_retained_pages_that_were_given_back_do_not_count(
    running: Callable[..., RunningFixture],
) -> None:
    """A trim merges the fastbins' chunks, which come to the bins and count from then on."""
    fixture = running("scattered")
    before = rows_retained(fixture.pid)
    rss = lines(fixture.pid, "smaps_rollup")["Rss"]
    assert fixture.trim()
    released = rss - lines(fixture.pid, "smaps_rollup")["Rss"]
    came = fixture.truth["fastbin_bytes"] or 0
    fell = before - rows_retained(fixture.pid)
    touched = 64 * 4096  # the call itself may touch some pages of libc and of the stack
    assert released - came - touched <= fell <= released + touched


@pytest.mark.parametrize("name", ["scattered", "pinned-top", "tcache-hoard", "fastbin-hoard"])
def test_the_lists_and_the_walk_find_the_same(
    name: str, running: Callable[..., RunningFixture]
) -> None:
    """What `arenas` counts chunk by chunk as free and resident, without what is parked."""
    fixture = running(name)
    walked = arenas(fixture.pid, ArenasOptions()).data.totals
    parked = walked.tcache_bytes + walked.fastbin_bytes
    assert rows_retained(fixture.pid) == walked.free_resident_bytes - parked


def rows_retained(pid: int) -> int:
    [row] = footprint(Selection((pid,)), retained=True).data.rows
    assert row.retained_bytes is not None
    return row.retained_bytes


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The processes in which malloc was searched for."""
    found: list[int] = []

    def search(memory: Memory, target: Target) -> tuple[Located, LibcImage]:
        found.append(target.process.pid)
        return find_malloc(memory, target)

    monkeypatch.setattr(app_retained, "find_malloc", search)
    return found


def test_malloc_is_searched_for_once_in_each_program(
    running: Callable[..., RunningFixture], searches: list[int]
) -> None:
    first, second = running("scattered"), running("scattered", scale=0.5)
    other = running("pinned-top")
    pids = (first.pid, second.pid, other.pid)
    alone = [rows_retained(pid) for pid in pids]
    assert len(set(alone)) == 3
    searches.clear()
    data = footprint(Selection((), (*pids, *pids)), retained=True).data
    assert [row.retained_bytes for row in data.rows] == alone
    assert searches == [first.pid, other.pid]


def test_where_a_library_is_there_twice_malloc_is_searched_for_each_time(
    tmp_path: Path, searches: list[int]
) -> None:
    namespaces = compile_c("namespaces.c", tmp_path / "namespaces", "-ldl")
    with running_c([namespaces]) as one, running_c([namespaces]) as other:
        for started in (one, other):
            started.line(READY_SECONDS)
        pids = (one.process.pid, other.process.pid)
        data = footprint(Selection((), pids), retained=True).data
    assert searches == list(pids)
    assert data.rows[0].retained_bytes == data.rows[1].retained_bytes


def test_progress_is_for_terminals_only(parent: int) -> None:
    words = [sys.executable, "-m", "allocscope", "footprint", "--tree", str(parent)]
    reader, terminal = pty.openpty()
    shown = subprocess.run(
        words,
        stdout=subprocess.PIPE,
        stderr=terminal,
        cwd=ROOT,
        check=True,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(terminal)
    said = os.read(reader, 1 << 16).decode()
    os.close(reader)
    assert "reading processes" in said
    assert "reading processes" not in shown.stdout.decode()
    quiet = subprocess.run(words, capture_output=True, cwd=ROOT, check=True)
    assert quiet.stderr == b""


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits(parent: int, width: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "allocscope", "footprint", "--tree", str(parent), "--retained"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        env={**os.environ, "COLUMNS": str(width)},
    )
    assert max(map(len, done.stdout.splitlines())) <= width
    assert f"{parent} kinds" in done.stdout
