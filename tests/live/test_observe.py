"""What is read of real processes in /proc, of their files, CPUs and control groups agrees with what
they, the kernel and other programs say."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import targets

from allocscope.errors import NoSuchProcess
from allocscope.model.process import Mapping
from allocscope.parse import cgroup
from allocscope.proc import cgroups, cpus, procfs


def test_identify_this_process():
    process = procfs.identify(os.getpid())
    assert process.comm == Path("/proc/self/comm").read_text().removesuffix("\n")
    assert process.exe == str(Path("/proc/self/exe").readlink())
    assert process.thread_count == threading.active_count()
    assert process.uptime_s >= 0
    procfs.same(process)


def test_identity_is_pid_and_start_time(waits):
    with targets.running([waits]) as target:
        process = procfs.identify(target.pid)
        procfs.same(process)
        target.process.kill()
        target.process.wait()
        with pytest.raises(NoSuchProcess, match=f"process {target.pid} went away meanwhile"):
            procfs.same(process)


def test_a_zombie_went_away(waits):
    with targets.running([waits]) as target:
        process = procfs.identify(target.pid)
        target.process.kill()
        os.waitid(os.P_PID, target.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(NoSuchProcess, match="went away"):
            procfs.same(process)


def test_another_program_in_the_same_process_is_not_the_same(waits):
    cat = Path("/bin/cat").resolve()
    with targets.running([waits, "exec", cat]) as target:
        process = procfs.identify(target.pid)
        assert target.process.stdin and target.process.stdout
        target.process.stdin.write(b"go\ncat echoes this\n")
        target.process.stdin.flush()
        assert target.line(targets.READY_SECONDS) == "cat echoes this"
        with pytest.raises(NoSuchProcess, match="another program"):
            procfs.same(process)


def test_threads(waits):
    with targets.running([waits, "threads", "5"]) as target:
        tasks = procfs.tasks(target.pid)
        assert len(tasks) == 6
        assert tasks[0].tid == target.pid
        assert {task.comm for task in tasks} == {"waits"}
        assert procfs.identify(target.pid).thread_count == 6


def all_asleep(pid: int) -> bool:
    return procfs.stillness(pid).all_sleeping


def test_a_sleeping_process_is_still(waits):
    with targets.running([waits, "threads", "5"]) as target:
        targets.wait_until(lambda: all_asleep(target.pid))
        before = procfs.stillness(target.pid)
        procfs.smaps(target.pid)
        after = procfs.stillness(target.pid)
        assert before.counted
        assert before.all_sleeping
        assert before == after


def test_a_process_that_woke_up_is_seen_although_it_sleeps_again(waits):
    with targets.running([waits, "threads", "1"]) as target:
        targets.wait_until(lambda: all_asleep(target.pid))
        before = procfs.stillness(target.pid)
        assert target.process.stdin
        target.process.stdin.write(b"wake up")
        target.process.stdin.flush()
        targets.wait_until(
            lambda: procfs.stillness(target.pid) != before and all_asleep(target.pid)
        )
        assert procfs.stillness(target.pid) != before


def test_a_spinning_process_is_not_still(waits):
    with targets.running([waits, "spins"]) as target:
        assert not all_asleep(target.pid)


def test_sizes_agree_with_each_other(waits):
    with targets.running([waits]) as target:
        pid = target.pid
        targets.wait_until(lambda: all_asleep(pid))
        entries, rollup, status = procfs.smaps(pid), procfs.smaps_rollup(pid), procfs.status(pid)
        assert tuple(entry.mapping for entry in entries) == procfs.mappings(pid)
        assert sum(entry.rss_bytes for entry in entries) == rollup.rss_bytes
        assert sum(entry.anonymous_bytes for entry in entries) == rollup.anonymous_bytes
        # The kernel's own counters lag by a batch of pages for each CPU.
        slack = 64 * 4096 * (os.cpu_count() or 1)
        assert status.rss_bytes == pytest.approx(rollup.rss_bytes, abs=slack)
        assert procfs.rss_bytes(pid) == pytest.approx(rollup.rss_bytes, abs=slack)


def test_environment_at_the_start(waits):
    environment = {"MALLOC_ARENA_MAX": "3", "GLIBC_TUNABLES": "glibc.malloc.mxfast=0"}
    with targets.running([waits], environment) as target:
        found = procfs.environ(target.pid)
        assert environment.items() <= found.items()
        assert "PATH" not in found


def test_auxiliary_vector(waits):
    with targets.running([waits]) as target:
        vector = procfs.auxv(target.pid)
        owner = {m.path for m in procfs.mappings(target.pid) if m.start <= vector.entry < m.end}
        assert owner == {str(waits)}
        base = [m for m in procfs.mappings(target.pid) if m.start == vector.base]
        assert base[0].path == str(targets.loader())
        assert (vector.page_bytes, vector.secure) == (os.sysconf("SC_PAGE_SIZE"), False)


@pytest.mark.parametrize("name", ["plain", "new\nline", "back\\012slash", "gone (deleted)", "é\t"])
def test_a_mapped_file_of_any_name_is_opened(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"content" + bytes(4096))
    with mapped_here(path) as mapping:
        file = procfs.open_mapped_file(os.getpid(), mapping)
        assert file is not None
        with file:
            assert file.how == "path"
            assert file.read(0, 7) == b"content"
            assert file.read(1 << 40, 7) == b""


def test_a_fifo_in_the_place_of_a_mapped_file_does_not_block(tmp_path):
    path = tmp_path / "trap"
    path.write_bytes(b"content" + bytes(4096))
    with mapped_here(path) as mapping:
        path.unlink()
        os.mkfifo(path)
        file = procfs.open_mapped_file(os.getpid(), mapping)
        if os.geteuid() == 0:
            assert file is not None
            with file:
                assert (file.how, file.read(0, 7)) == ("map_files", b"content")
        else:
            assert file is None


def test_anonymous_memory_has_no_file():
    anonymous = next(m for m in procfs.mappings(os.getpid()) if m.path == "[stack]")
    assert procfs.open_mapped_file(os.getpid(), anonymous) is None


@contextlib.contextmanager
def mapped_here(path: Path) -> Iterator[Mapping]:
    """The file, mapped into this process."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        inode = os.fstat(file.fileno()).st_ino
        yield next(m for m in procfs.mappings(os.getpid()) if m.inode == inode)


def test_cpus():
    assert cpus.online() == os.sysconf("SC_NPROCESSORS_ONLN")
    allowed = os.sched_getaffinity(0)
    assert cpus.affinity(os.getpid()) == len(allowed)
    with targets.running(
        ["taskset", "-c", str(min(allowed)), "sh", "-c", "echo ready; read x"]
    ) as t:
        assert cpus.affinity(t.pid) == 1
        assert procfs.status(t.pid).cpus_allowed == str(min(allowed))


@contextlib.contextmanager
def control_group(controller: str, limit: str) -> Iterator[Path]:
    """A new group of version 1 for ``controller``, in which ``limit`` can be written."""
    parent = Path("/sys/fs/cgroup") / controller
    group = parent / f"allocscope-test-{os.getpid()}"
    try:
        (group / "inner").mkdir(parents=True)
        (group / limit).write_bytes((group / limit).read_bytes())
    except OSError as error:
        pytest.skip(f"needs {parent} of version 1, writable (CAP_SYS_ADMIN): {error.strerror}")
    try:
        yield group
    finally:
        (group / "inner").rmdir()
        group.rmdir()


def test_cpu_quota_of_version_1(waits):
    """The tightest on the way up counts, wherever it is set."""
    with control_group("cpu", "cpu.cfs_quota_us") as group, targets.running([waits]) as target:
        (group / "inner" / "cgroup.procs").write_text(str(target.pid))
        assert cgroups.cpu_quota(target.pid) is None
        (group / "cpu.cfs_quota_us").write_text("50000")
        (group / "cpu.cfs_period_us").write_text("200000")
        assert cgroups.cpu_quota(target.pid) == 0.25
        (group / "inner" / "cpu.cfs_quota_us").write_text("10000")
        found = cgroups.limits(target.pid)
        assert (found.cpus, found.cpu_path) == (0.1, str(group / "inner"))


def test_memory_limit_of_version_1(waits):
    with control_group("memory", "memory.limit_in_bytes") as group:
        (group / "memory.limit_in_bytes").write_text(str(64 << 20))
        with targets.running([waits]) as target:
            (group / "inner" / "cgroup.procs").write_text(str(target.pid))
            found = cgroups.limits(target.pid)
            assert (found.memory_limit_bytes, found.memory_path) == (64 << 20, str(group))
            usage = int((group / "memory.usage_in_bytes").read_text())
            assert found.memory_headroom_bytes == pytest.approx((64 << 20) - usage, abs=1 << 20)
            assert found.memory_usage_bytes is not None


def test_limits_of_version_2(tmp_path):
    """The files of cgroup-v2.rst, in directories of ours: that the kernel writes them so is for
    the kernel's documentation to say."""
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    files = {
        "outer/cpu.max": "150000 100000\n",
        "outer/inner/cpu.max": "max 100000\n",
        "outer/memory.max": "1000000\n",
        "outer/memory.current": "900000\n",
        "outer/inner/memory.max": "max\n",
        "outer/inner/memory.current": "5000\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    mounts = (cgroup.Mount(2, "/", str(tmp_path), ("rw",)),)
    found = cgroups.tightest((cgroup.Membership(0, (), "/outer/inner"),), mounts)
    assert (found.cpus, found.cpu_path) == (1.5, str(tmp_path / "outer"))
    assert (found.memory_limit_bytes, found.memory_usage_bytes) == (1000000, 5000)
    assert found.memory_headroom_bytes == 100000


def test_a_mount_that_shows_only_a_part_of_the_hierarchy(tmp_path):
    """As in a container: the group of the process is the root of what is mounted."""
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    mounts = (cgroup.Mount(2, "/docker/abc", str(tmp_path), ("rw",)),)
    inside = cgroups.tightest((cgroup.Membership(0, (), "/docker/abc"),), mounts)
    assert inside.cpus == 2.0
    for path in ("/docker/abcdef", "/docker", "/docker/abc/../x"):
        outside = cgroups.tightest((cgroup.Membership(0, (), path),), mounts)
        assert (outside.cpus, outside.cpu_path) == (None, None)
