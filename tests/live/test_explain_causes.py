"""Causes that no fixture shows, on small Python programs that make them: what they hold is what
they asked the kernel for."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from live.pages import kernel_says
from live.programs import READY_SECONDS, speaking
from live.swap import swap
from live.targets import need_root, only_child, wait_until
from live.test_explain import assert_the_ledger_closes, explained, resident
from live.test_which_number import file_system

from allocscope.app.explain import ExplainOptions, survey
from allocscope.app.explain_file import portrait_of_file
from allocscope.app.record import RecordOptions, record
from allocscope.lab.child import child
from allocscope.proc import sockdiag

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


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A new group of the hierarchy that counts memory; it is empty again at the end."""
    need_root()
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    counting = [m[1] for m in mounts if m[2] == "cgroup" and "memory" in m[3].split(",")]
    counting += [m[1] for m in mounts if m[2] == "cgroup2"]
    if not counting:
        pytest.skip("this kernel has no control groups that count memory mounted")
    group = Path(counting[0]) / f"allocscope-explain-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("needs CAP_SYS_ADMIN to make a control group")
    try:
        if not (group / "memory.stat").exists():
            pytest.skip("this kernel has no memory controller in the groups that can be made here")
        yield group
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


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


SOCKETS = """
import struct
def memory(one):  # SO_MEMINFO: received, (limit), sent, (limit), reserved, queued, options, backlog
    told = struct.unpack("9I", one.getsockopt(socket.SOL_SOCKET, 55, 36))
    return told[0] + max(told[2], told[5]) + told[4] + told[6] + told[7]
one, other = socket.socketpair(); one.send(b"x" * 30000)
told, heard = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
for _ in range(3): told.send(b"y" * 1000)
to = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); to.bind(("127.0.0.1", 0))
sent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sent.sendto(b"z" * 500, to.getsockname())
server = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(server.getsockname()); far, _ = server.accept()
near.sendall(b"x" * 50000)
while memory(near) - memory(server) > 4096: pass  # until the other side has it all
print(sum(map(memory, (one, other, told, heard, to, sent, near, far, server))), flush=True)
"""


LOOPBACK_UP = """
import fcntl
flags = b"lo".ljust(16, b"\\0") + (1).to_bytes(2, "little") + bytes(14)  # IFF_UP
fcntl.ioctl(socket.socket(), 0x8914, flags)  # SIOCSIFFLAGS
"""


@pytest.mark.parametrize(("start", "code"), [((), ""), (("unshare", "--net"), LOOPBACK_UP)])
def test_buffers_of_sockets_are_counted(start: tuple[str, ...], code: str) -> None:
    """The sum of what the kernel tells the program of each; in another network namespace too."""
    if start:
        need_root()
    with child([*start, sys.executable, "-c", PRELUDE + code + SOCKETS + WAIT]) as program:
        truth = int(program.line(READY_SECONDS))
        assert program.line(READY_SECONDS) == "ready"
        assert truth > 30000 + 3000 + 500 + 50000
        counted = outside(program.pid)["sockets"]
    assert counted == pytest.approx(truth, abs=8192)  # what TCP has reserved it may give back


def test_what_a_control_group_is_charged_with(control_group: Path) -> None:
    """A program of a group of its own writes to memory, to a file on disk, and to shared memory."""
    code = (
        "at = touched(24 * MIB)\n"
        "file = tempfile.TemporaryFile(dir='/var/tmp')\n"
        "for _ in range(16): file.write(b'x' * MIB)\n"
        "file.flush(); os.fsync(file.fileno())\n"
        "fd = os.memfd_create('shared')\n"
        "for _ in range(12): os.write(fd, b'y' * MIB)\n"
    )
    enter = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(control_group)]
    with child([*enter, sys.executable, "-c", PRELUDE + code + WAIT]) as program:
        assert program.line(READY_SECONDS) == "ready"
        found = explained(program.pid).data.cgroup
        usage = sum(
            int((control_group / name).read_text())
            for name in ("memory.current", "memory.usage_in_bytes")
            if (control_group / name).exists()
        )
    assert found is not None
    assert found.path == str(control_group)
    assert found.usage_bytes == pytest.approx(usage, abs=4 * MIB)
    assert found.anonymous_bytes is not None
    assert 24 * MIB <= found.anonymous_bytes < 40 * MIB
    assert found.shared_bytes == pytest.approx(12 * MIB, abs=MIB)
    assert found.file_bytes is not None
    assert 15 * MIB <= found.file_bytes < 24 * MIB
    assert found.reclaimable_bytes is not None
    assert found.reclaimable_bytes >= 15 * MIB


def test_where_the_kernel_does_not_tell_buffers_queues_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sockdiag, "buffers", lambda _pid, _inodes: None)
    with child([sys.executable, "-c", PRELUDE + SOCKETS + WAIT]) as program:
        program.line(READY_SECONDS)
        assert program.line(READY_SECONDS) == "ready"
        # While they are on their way they are in the sender's queue and in the receiver's.
        assert 50500 <= outside(program.pid)["sockets"] <= 110000


def descriptor_evidence(pid: int) -> list[str]:
    causes = {cause.key: cause for cause in explained(pid).data.causes}
    return list(causes["descriptor-growth"].evidence) if "descriptor-growth" in causes else []


def test_connections_that_the_program_never_closes() -> None:
    code = (
        "server = socket.create_server(('127.0.0.1', 0), backlog=200); held = []\n"
        "for _ in range(COUNT):\n"
        "    one = socket.create_connection(server.getsockname())\n"
        "    held.append(server.accept()[0])\n"
        "    one.close(); assert held[-1].recv(1) == b''\n"
    )
    with running(code.replace("COUNT", "120")) as pid:
        [text] = descriptor_evidence(pid)
        assert text.startswith("120 TCP connections were closed by the other side")
    with running(code.replace("COUNT", "20")) as pid:
        assert descriptor_evidence(pid) == []


def test_a_file_that_is_opened_again_and_again() -> None:
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (1500, 1500))\n"
        "held = [os.open('/etc/passwd', os.O_RDONLY) for _ in range(1200)]"
    )
    with running(code) as pid:
        many, alike = descriptor_evidence(pid)
        assert many == "1203 descriptors are open, of 1500 that it may have"
        assert alike == "1200 of 1203 descriptors are of /etc/passwd"


def test_what_the_other_end_has_not_read_counts_for_the_sender_too() -> None:
    code = (
        "one, other = socket.socketpair(); one.send(b'x' * 30000)\n"
        "if os.fork():\n"
        "    other.close(); print(os.getpid(), flush=True)\n"
        "else:\n"
        "    one.close(); sys.stdin.read(); os._exit(0)"
    )
    with child([sys.executable, "-c", PRELUDE + code + WAIT]) as program:
        sender = int(program.line(READY_SECONDS))
        assert program.line(READY_SECONDS) == "ready"
        receiver = only_child(sender)
        wait_until(lambda: len(list(Path(f"/proc/{receiver}/fd").iterdir())) == 4)
        assert 30000 <= outside(sender)["sockets"] == outside(receiver)["sockets"] <= 60000


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


SPARSE = {
    "one chunk with a mapping of its own": "at = libc.malloc(64 * MIB)\n"
    "for i in range(0, 64 * MIB, 2 * MIB): ctypes.memset(at + i, 1, 1)\n",
    "chunks of the main heap": "held = [libc.malloc(120 << 10) for _ in range(500)]\n",
}
COLLAPSED = """
at = libc.malloc(66 * MIB)
first = -(-at // (2 * MIB)) * 2 * MIB
for i in range(0, 64 * MIB, 2 * MIB): ctypes.memset(first + i, 1, 1)
assert libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(64 * MIB), 25) == 0  # MADV_COLLAPSE
"""
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def need_huge_pages() -> None:
    if not THP.exists() or "[never]" in THP.read_text():
        pytest.skip("this kernel has no transparent huge pages switched on")


@pytest.mark.parametrize("name", SPARSE)
def test_huge_pages_that_inflate_what_is_sparse(name: str) -> None:
    """The remedy's gain is what RSS falls by without them."""
    need_huge_pages()
    environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    with child([sys.executable, "-c", PRELUDE + SPARSE[name] + WAIT], environment) as program:
        assert program.line(READY_SECONDS) == "ready"
        found = explained(program.pid).data
        assert_the_ledger_closes(program.pid, found)
    first = found.causes[0]
    assert first.key == "thp-inflation", found.verdict
    assert first.bytes > 48 * MIB
    assert first.exclusive_bytes == pytest.approx(first.bytes, rel=0.05)
    [remedy] = first.remedies
    fallen = found.rss_bytes - rss_with(SPARSE[name], {})
    assert remedy.gain_bytes == pytest.approx(fallen, rel=0.05)


def test_huge_pages_that_khugepaged_filled_up() -> None:
    """MADV_COLLAPSE does at once what khugepaged does in time."""
    need_huge_pages()
    with running(COLLAPSED) as pid:
        first = explained(pid).data.causes[0]
    assert first.key == "thp-inflation"
    assert first.bytes == 64 * MIB - 32 * 4096


def test_huge_pages_that_were_written_inflate_nothing() -> None:
    need_huge_pages()
    environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    code = "held = [touched(100 << 10) for _ in range(600)]\nfor at in held[:-1]: libc.free(at)\n"
    with child([sys.executable, "-c", PRELUDE + code + WAIT], environment) as program:
        assert program.line(READY_SECONDS) == "ready"
        assert kernel_says(program.pid, "AnonHugePages") > 40 * MIB
        found = explained(program.pid).data
    assert found.causes[0].key == "top-pinned", found.verdict
    assert "thp-inflation" not in [cause.key for cause in found.causes if cause.bytes > 8 * MIB]


def test_a_heap_in_swap_is_missed_in_rss() -> None:
    """RSS fell, the footprint did not; looking at it brings nothing back."""
    code = (
        "held = [touched(100 << 10) for _ in range(360)]\n"
        "low, high = held[0] // 4096 * 4096 + 4096, held[-1] // 4096 * 4096\n"
        "assert libc.madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), 21) == 0\n"
    )  # MADV_PAGEOUT
    with swap(), running(code) as pid:
        swapped = kernel_says(pid, "Swap")
        assert swapped > 30 * MIB
        report = explained(pid)
        assert kernel_says(pid, "Swap") == swapped
    data = report.data
    first = data.causes[0]
    assert (first.key, first.bytes) == ("swapped-out", swapped), data.verdict
    assert "main heap 3" in first.evidence[1]
    assert "this machine swaps to /" in first.evidence[2]
    assert data.verdict.endswith(" MiB resident, and 35.1 MiB more are in swap.")
    assert data.footprint_bytes is not None
    assert data.footprint_bytes > swapped
    assert sum(row.resident_bytes for row in data.ledger) == data.rss_bytes
    assert next(row for row in data.ledger if row.key == "glibc-live").swapped_bytes is None
    codes = {caveat.code for caveat in report.caveats}
    assert "arena-swapped" in codes
    assert "arena-damaged" not in codes


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


def test_what_the_page_cache_holds_of_a_mapped_file(tmp_path: Path) -> None:
    """64 MiB were written, 40 MiB of it are mapped and read; all of it is cached."""
    code = (
        "file = tempfile.NamedTemporaryFile(dir='/var/tmp')\n"
        "for _ in range(64): file.write(b'x' * MIB)\n"
        "file.flush(); os.fsync(file.fileno())\n"
        "area = mmap.mmap(file.fileno(), 40 * MIB, prot=mmap.PROT_READ)\n"
        "total = sum(area[i] for i in range(0, 40 * MIB, 4096))"
    )
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 5):
        pytest.skip("kernel 6.5 or newer is needed for cachestat")
    if file_system("/var/tmp") in ("tmpfs", "ramfs"):
        pytest.skip("this kernel has no disk behind /var/tmp")
    with running(code) as pid:
        data = explained(pid).data
        first = data.causes[0]
        assert (first.key, first.confidence) == ("file-cache", "measured")
        assert first.bytes == pytest.approx(40 * MIB, abs=MIB)
        assert first.evidence[1].startswith("the page cache holds 64.0 MiB of 1 such file")
        assert "the kernel can drop it, all of it clean" in first.evidence[1]
        [cache] = [fact for fact in data.outside_rss if fact.key == "page-cache"]
        assert cache.bytes >= 24 * MIB
        assert "/var/tmp/" in cache.evidence
        record(pid, tmp_path / "a.asrec", RecordOptions())
    there, _ = portrait_of_file(tmp_path / "a.asrec", ExplainOptions(), sample=None)
    assert there.data.causes[0].key == "file-cache"
    assert (
        there.data.causes[0].evidence[1].startswith("the page cache holds 64.0 MiB of 1 such file")
    )
    assert there.data.outside_rss is not None
    [kept] = [fact for fact in there.data.outside_rss if fact.key == "page-cache"]
    assert kept.bytes >= 24 * MIB
    assert "/var/tmp/" in kept.evidence


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
