"""Causes that no fixture shows, on small Python programs that make them: what they hold is what
they asked the kernel for."""

from __future__ import annotations

import contextlib
import ctypes.util
import sys
from collections.abc import Iterator

import pytest
from live.pages import kernel_says
from live.programs import READY_SECONDS, speaking
from live.test_explain import assert_the_ledger_closes, explained, resident

from allocscope.app.explain import ExplainOptions, survey
from allocscope.lab.child import child

MIB = 1 << 20
PRELUDE = """
import ctypes, mmap, os, socket, sys, tempfile
MIB = 1 << 20
libc = ctypes.CDLL(None, use_errno=True)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def touched(size):
    at = libc.malloc(size)
    ctypes.memset(at, 1, size)
    return at
"""
WAIT = "\nprint('ready', flush=True); sys.stdin.read()\n"


@contextlib.contextmanager
def running(code: str) -> Iterator[int]:
    """A Python program that runs ``code`` and then waits."""
    with speaking([sys.executable, "-c", PRELUDE + code + WAIT]) as pid:
        yield pid


def outside(pid: int) -> dict[str, int]:
    return {fact.key: fact.bytes for fact in explained(pid).data.outside_rss}


def test_a_memfd_that_is_held_and_not_mapped_is_in_nobodys_rss() -> None:
    with running("fd = os.memfd_create('cache'); os.write(fd, b'x' * (40 * MIB))") as pid:
        report = explained(pid)
        assert_the_ledger_closes(pid, report.data)
        assert outside(pid)["tmpfs-held"] == 40 * MIB
        first = report.data.causes[0]
        assert (first.key, first.bytes, first.exclusive_bytes) == (
            "tmpfs-held", 40 * MIB, 40 * MIB
        )  # fmt: skip
        assert "memfd:cache" in first.evidence[0]


def test_of_a_file_in_memory_only_what_is_not_mapped_is_outside() -> None:
    code = (
        "fd = os.memfd_create('cache'); os.write(fd, b'x' * (40 * MIB))\n"
        "part = mmap.mmap(fd, 24 * MIB); part.write(b'y' * (24 * MIB))"
    )
    with running(code) as pid:
        data = explained(pid).data
        assert outside(pid)["tmpfs-held"] == 16 * MIB
        assert resident(data, "shared-memory") >= 24 * MIB
        assert data.causes[0].key == "shared-memory"


def test_a_disk_file_that_is_held_open_is_no_memory() -> None:
    with running("file = open(sys.executable, 'rb'); file.read(100)") as pid:
        assert "tmpfs-held" not in outside(pid)


def test_unread_bytes_in_a_socket_are_counted() -> None:
    code = (
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "one = socket.create_connection(server.getsockname()); other, _ = server.accept()\n"
        "one.sendall(b'x' * 50000)\n"
    )
    with running(code) as pid:
        # While they are on their way they are in the sender's queue and in the receiver's.
        assert 50000 <= outside(pid)["sockets"] <= 100000


def test_relatives_share_until_they_write() -> None:
    code = (
        "held = [touched(90000) for _ in range(600)]\n"
        "if os.fork() == 0:\n"
        "    sys.stdin.read(); os._exit(0)"
    )
    with running(code) as pid:
        data = explained(pid).data
        assert data.causes[0].key == "fork-sharing", data.verdict
        assert data.causes[0].bytes > 20 * MIB
        assert data.footprint_bytes is not None
        assert data.footprint_bytes < data.rss_bytes - 20 * MIB


def rss_with(code: str, environment: dict[str, str]) -> int:
    with child([sys.executable, "-c", PRELUDE + code + WAIT], environment=environment) as program:
        assert program.line(READY_SECONDS) == "ready"
        return kernel_says(program.pid, "Rss")


def test_thresholds_that_freeing_a_large_chunk_raised() -> None:
    code = (
        "libc.free(touched(24 * MIB))\n"
        "held = [touched(64 << 10) for _ in range(40 * 16)]\n"
        "for at in reversed(held): libc.free(at)\n"
    )
    with running(code) as pid:
        found = explained(pid).data
        first = found.causes[0]
        assert first.key == "raised-thresholds", found.verdict
        assert first.bytes > 30 * MIB
        settings = survey(pid, ExplainOptions()).data.heap.settings
        assert settings.mmap_threshold_bytes.origin == "dynamic"
        [remedy] = first.remedies
        fixed = "glibc.malloc.trim_threshold=131072:glibc.malloc.mmap_threshold=131072"
        fallen = found.rss_bytes - rss_with(code, {"GLIBC_TUNABLES": fixed})
        assert remedy.gain_bytes == pytest.approx(fallen, rel=0.2)


def test_memory_that_a_program_maps_for_itself_is_unexplained() -> None:
    with running(
        "area = mmap.mmap(-1, 20 * MIB, mmap.MAP_PRIVATE); area.write(b'x' * (20 * MIB))"
    ) as pid:
        data = explained(pid).data
        assert_the_ledger_closes(pid, data)
        assert resident(data, "unexplained") == 20 * MIB
        assert "20.0 MiB are unexplained" in data.verdict


def test_a_shared_anonymous_area_is_shared_memory() -> None:
    with running("area = mmap.mmap(-1, 40 * MIB); area.write(b'x' * (40 * MIB))") as pid:
        data = explained(pid).data
        assert resident(data, "shared-memory") == 40 * MIB
        assert data.causes[0].key == "shared-memory"


def test_a_mapped_file_is_the_page_caches() -> None:
    code = (
        "file = tempfile.NamedTemporaryFile()\n"
        "file.write(b'x' * (40 * MIB)); file.flush()\n"
        "area = mmap.mmap(file.fileno(), 40 * MIB, prot=mmap.PROT_READ)\n"
        "total = sum(area[i] for i in range(0, 40 * MIB, 4096))"
    )
    with running(code) as pid:
        data = explained(pid).data
        assert resident(data, "file-shared", "shared-memory") >= 40 * MIB
        assert data.causes[0].key in ("file-cache", "shared-memory")


def test_a_heap_of_cpython_is_the_runtimes() -> None:
    with running("held = [object() for _ in range(3_000_000)]") as pid:
        data = explained(pid).data
        assert_the_ledger_closes(pid, data)
        assert resident(data, "runtime-heap") > 40 * MIB
        assert resident(data, "unexplained") == 0
        assert data.causes[0].key == "runtime-heap"
        assert "CPython" in data.causes[0].evidence[0]


LIBRARIES = {
    "jemalloc": "libjemalloc.so.2",
    "mimalloc": "libmimalloc.so.2",
    "tcmalloc": "libtcmalloc_minimal.so.4",
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_another_allocators_heap_is_its_own_by_its_structures(name: str) -> None:
    library = LIBRARIES[name]
    if ctypes.util.find_library(library.partition(".so")[0].removeprefix("lib")) is None:
        pytest.skip(f"{library} not installed")
    code = "held = [touched(50000) for _ in range(900)]"
    words = [sys.executable, "-c", PRELUDE + code + WAIT]
    with child(words, environment={"LD_PRELOAD": library}) as program:
        assert program.line(READY_SECONDS) == "ready"
        report = explained(program.pid)
        assert_the_ledger_closes(program.pid, report.data)
    first = report.data.causes[0]
    assert first.key == "other-allocator"
    assert report.allocator is not None
    assert report.allocator.name == name
    assert resident(report.data, "other-allocator") > 40 * MIB
    assert resident(report.data, "unexplained") < report.data.rss_bytes / 100
    assert first.confidence == "measured"
    assert name in first.evidence[0]


def test_a_setting_that_the_program_takes_back_has_no_effect() -> None:
    """The environment asks for 1 MiB, mallopt(M_MMAP_THRESHOLD) sets the default again."""
    environment = {"MALLOC_MMAP_THRESHOLD_": "1048576"}
    for code, in_vain in (("", False), ("assert libc.mallopt(-3, 128 << 10) == 1", True)):
        words = [sys.executable, "-c", PRELUDE + code + WAIT]
        with child(words, environment=environment) as program:
            assert program.line(READY_SECONDS) == "ready"
            causes = {cause.key: cause for cause in explained(program.pid).data.causes}
        assert ("setting-without-effect" in causes) == in_vain
        if in_vain:
            [text] = causes["setting-without-effect"].evidence
            assert "mmap_threshold" in text
            assert "1048576" in text
