"""Causes on programs that show them, and on the same programs without their reason: after the
remedy, with the setting, or with less of it. There they must not appear."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from live.huge_pages import reserved
from live.pages import kernel_says
from live.programs import (
    READY_SECONDS,
    NotInstalled,
    installed,
    servers,
    speaking,
    thread_states,
    wait_until,
)
from live.targets import only_child
from live.test_explain import assert_the_ledger_closes, explained
from live.test_explain_causes import PRELUDE, WAIT, outside
from live.test_explain_causes import running as python
from live.test_lazyfree import need_reclaim

from allocscope.app.reclaim import reclaim
from allocscope.lab.child import child
from allocscope.lab.fixture import RunningFixture
from allocscope.model.ledger import Cause

MIB = 1 << 20


@contextlib.contextmanager
def python_with(code: str, tunables: str) -> Iterator[int]:
    words = [sys.executable, "-c", PRELUDE + code + WAIT]
    with child(words, environment={"GLIBC_TUNABLES": tunables}) as program:
        assert program.line(READY_SECONDS) == "ready"
        yield program.pid


def causes_of(pid: int) -> dict[str, Cause]:
    return {cause.key: cause for cause in explained(pid).data.causes}


def first(pid: int) -> Cause:
    return explained(pid).data.causes[0]


# ---- memory that is not malloc's ----


@pytest.mark.parametrize("flags", ["MAP_SHARED", "MAP_PRIVATE"])
def test_an_area_is_shared_memory_only_where_it_was_mapped_as_that(flags: str) -> None:
    code = f"area = mmap.mmap(-1, 40 * MIB, mmap.{flags}); area.write(b'x' * (40 * MIB))"
    with python(code) as pid:
        causes = causes_of(pid)
        assert ("shared-memory" in causes) == (flags == "MAP_SHARED")
        assert ("other-allocator" in causes) is False


# ---- free memory of malloc ----

HOLES = """
held = [touched(100 << 10) for _ in range(800)]
for number, at in enumerate(held):
    if number % 5 in (1, 2): libc.free(at)
"""


def test_free_pages_until_they_are_trimmed() -> None:
    with python(HOLES) as pid:
        found = first(pid)
        assert found.key == "untrimmed-free"
        assert found.bytes == pytest.approx(320 * (100 << 10), rel=0.05)
        rss = kernel_says(pid, "Rss")
    with python(HOLES + "libc.malloc_trim(0)\n") as pid:
        [trim] = [remedy.gain_bytes for remedy in found.remedies if remedy.key == "trim"]
        assert rss - kernel_says(pid, "Rss") == pytest.approx(trim, rel=0.05)
        assert "untrimmed-free" not in causes_of(pid)


@pytest.mark.parametrize("name", ["arena-spread", "fastbin-hoard", "parked-top", "pinned-top"])
def test_a_cause_that_a_trim_cures_is_gone_after_it(
    name: str, running: Callable[..., RunningFixture]
) -> None:
    target = running(name, scale=0.6)
    before = first(target.pid)
    assert "trim" in [remedy.key for remedy in before.remedies]
    target.trim()
    assert first(target.pid).key == "healthy"
    left = causes_of(target.pid).get(before.key)
    assert left is None or left.bytes < before.bytes / 10


TOPS = """
import threading
def work():
    kept = [touched(65 << 10) for _ in range(2)]
    libc.free(touched(100 << 10))
    done.wait(); end.wait()
COUNT = 240
done, end = threading.Barrier(COUNT + 1), threading.Event()
for _ in range(COUNT): threading.Thread(target=work, daemon=True).start()
done.wait()
"""


def test_ends_of_thread_arenas_which_no_trim_touches() -> None:
    with python_with(TOPS, "glibc.malloc.arena_max=300") as pid:
        found = first(pid)
        assert found.key == "thread-top"
        assert found.bytes == pytest.approx(240 * (100 << 10), rel=0.1)
        assert {remedy.gain_is for remedy in found.remedies} == {"unknown"}
    with python_with(TOPS + "libc.malloc_trim(0)\n", "glibc.malloc.arena_max=300") as pid:
        assert first(pid).key == "thread-top"
        assert first(pid).bytes == pytest.approx(found.bytes, rel=0.05)
    with python_with(TOPS, "glibc.malloc.arena_max=1") as pid:
        assert "thread-top" not in causes_of(pid)


RAISED = """
libc.free(touched(24 * MIB))
held = [touched(64 << 10) for _ in range(40 * 16)]
for at in reversed(held): libc.free(at)
"""


def test_thresholds_that_stay_where_they_were() -> None:
    fixed = "glibc.malloc.trim_threshold=131072:glibc.malloc.mmap_threshold=131072"
    with python_with(RAISED, "") as pid:
        assert first(pid).key == "raised-thresholds"
    with python_with(RAISED, fixed) as pid:
        assert "raised-thresholds" not in causes_of(pid)


def test_lazily_freed_pages_until_they_are_reclaimed(
    running: Callable[..., RunningFixture],
) -> None:
    need_reclaim()
    target = running("lazyfree")
    before = first(target.pid)
    assert before.key == "lazyfree-held"
    [remedy] = before.remedies
    rss = kernel_says(target.pid, "Rss")
    reclaim(target.pid)
    assert rss - kernel_says(target.pid, "Rss") == pytest.approx(remedy.gain_bytes, rel=0.05)
    assert "lazyfree-held" not in causes_of(target.pid)


# ---- memory that is shared, and memory that no RSS counts ----

FORKED = """
held = [touched(90000) for _ in range(600)]
if os.fork() == 0:
    import signal
    signal.pause()
"""


def test_relatives_share_while_they_live() -> None:
    with python(FORKED) as pid:
        assert "fork-sharing" in causes_of(pid)
        relative = only_child(pid)
        os.kill(relative, signal.SIGKILL)
        wait_until("the child is gone", lambda: thread_states(relative) == ["Z"])
        assert "fork-sharing" not in causes_of(pid)


TABLES = """
size = GIB << 30
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
at = libc.mmap(None, size, 1, 0x4022, -1, 0)  # PROT_READ; MAP_NORESERVE, private, anonymous
assert libc.madvise(ctypes.c_void_p(at), ctypes.c_size_t(size), 15) == 0  # MADV_NOHUGEPAGE
for i in range(0, size, 2 * MIB): ctypes.string_at(at + i, 1)
"""


@pytest.mark.parametrize(("gib", "much"), [(16, True), (2, False)])
def test_page_tables_of_memory_that_is_touched_here_and_there(gib: int, much: bool) -> None:
    """Each page read is the kernel's page of zeros, and takes a page table of its own."""
    with python(TABLES.replace("GIB", str(gib))) as pid:
        status = Path(f"/proc/{pid}/status").read_text()
        [tables] = re.findall(r"VmPTE:\s+(\d+) kB", status)
        found = explained(pid).data
        assert_the_ledger_closes(pid, found)
        assert outside(pid)["page-tables"] == int(tables) << 10 >= gib * 512 * 4096
        assert outside(pid)["kernel-stacks"] == 16384
        assert (found.causes[0].key == "kernel-memory") == much, found.verdict
    assert found.verdict.endswith("healthy.") != much


def test_pages_of_the_huge_pool_are_outside() -> None:
    code = (
        "area = mmap.mmap(-1, 8 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)\n"
        "area.write(b'x' * (8 * MIB))"
    )
    with reserved(4), python(code) as pid:
        assert outside(pid)["hugetlb"] == 8 * MIB
        assert_the_ledger_closes(pid, explained(pid).data)
    with python("area = mmap.mmap(-1, 8 * MIB)") as pid:
        assert "hugetlb" not in outside(pid)


def test_the_limit_of_its_group_and_what_is_left(limited_group: tuple[Path, str]) -> None:
    group, limit = limited_group
    with python("at = touched(24 * MIB)") as pid:
        assert explained(pid).data.memory_limit_bytes != 64 * MIB
    enter = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(group)]
    with child(
        [*enter, sys.executable, "-c", PRELUDE + "at = touched(24 * MIB)" + WAIT]
    ) as program:
        assert program.line(READY_SECONDS) == "ready"
        found = explained(program.pid).data
        assert found.memory_limit_bytes == int((group / limit).read_text()) == 64 * MIB
        assert found.memory_headroom_bytes is not None
        assert 16 * MIB < found.memory_headroom_bytes < 40 * MIB


# ---- servers that have just started ----


@contextlib.contextmanager
def fresh_ruby(directory: Path) -> Iterator[int]:
    script = "$stdout.puts 'ready'; $stdout.flush; $stdin.read"
    with speaking([installed("ruby"), "-rwebrick", "-e", script]) as pid:
        yield pid


@contextlib.contextmanager
def fresh_node(directory: Path) -> Iterator[int]:
    script = (
        "require('http').createServer(() => 0).listen(0, () => console.log('ready'));"
        "process.stdin.resume().on('end', () => process.exit(0))"
    )
    with speaking([installed("node"), "-e", script]) as pid:
        yield pid


JAVA_SERVER = """
public class Server {
    public static void main(String[] arguments) throws Exception {
        var address = new java.net.InetSocketAddress("127.0.0.1", 0);
        var server = com.sun.net.httpserver.HttpServer.create(address, 0);
        server.start();
        System.out.println("ready");
        System.in.read();
        System.exit(0);
    }
}
"""


@contextlib.contextmanager
def fresh_java(directory: Path) -> Iterator[int]:
    (directory / "Server.java").write_text(JAVA_SERVER)
    compiler = [installed("javac"), "-d", str(directory), str(directory / "Server.java")]
    subprocess.run(compiler, check=True, timeout=READY_SECONDS)
    with speaking([installed("java"), "-cp", str(directory), "Server"]) as pid:
        yield pid


@contextlib.contextmanager
def fresh_memcached(directory: Path) -> Iterator[int]:
    listening = directory / "socket"
    user = ["-u", "root"] if os.geteuid() == 0 else []
    with (
        child([installed("memcached"), *user, "-s", str(listening)], ends_at_eof=False) as server,
        socket.socket(socket.AF_UNIX) as connection,
    ):
        wait_until("memcached listens", lambda: connection.connect_ex(str(listening)) == 0)
        yield server.pid


FRESH = {
    "java": fresh_java,
    "memcached": fresh_memcached,
    "nginx": servers.nginx,
    "node": fresh_node,
    "postgres": servers.fresh_postgres,
    "ruby": fresh_ruby,
}


@pytest.mark.parametrize("name", FRESH)
def test_a_server_that_has_just_started_is_healthy(name: str, tmp_path: Path) -> None:
    try:
        with FRESH[name](tmp_path) as pid:
            data = explained(pid).data
    except NotInstalled as missing:
        pytest.skip(str(missing))
    assert data.causes[0].key == "healthy", data.verdict
    assert data.verdict.endswith("healthy.")
