"""Real processes in every place where a C library can be: what is read of them agrees with what
they, the kernel and other programs say."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import targets

from allocscope.errors import NoSuchProcess
from allocscope.model.libc import LibcImage
from allocscope.model.process import Mapping
from allocscope.observe import allocators, cgroups, cpus, libc, procfs
from allocscope.parse import cgroup, elf, symbols


@pytest.fixture(scope="session")
def waits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return targets.compile_c(
        "waits.c", tmp_path_factory.mktemp("targets") / "waits", "-pthread", "-ldl"
    )


@pytest.fixture(scope="session")
def own_malloc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with a malloc of its own, and a name that says nothing."""
    path = tmp_path_factory.mktemp("targets") / "libunheard_of.so"
    return targets.compile_c("own_malloc.c", path, "-shared", "-fPIC", "-fno-builtin")


def readelf_build_id(file: Path) -> str:
    """What binutils say."""
    command = ["readelf", "-n", str(file)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"Build ID: (\w+)", output)
    assert found
    return found[1]


def the_libc(pid: int) -> LibcImage:
    (image,) = libc.identify(pid, procfs.mappings(pid))
    return image


def assert_is_this_machines_glibc(image: LibcImage) -> None:
    """``confstr`` is glibc's own word for its version, readelf is binutils' for the build-id."""
    assert (image.kind, image.bits, image.static) == ("glibc", 64, False)
    assert f"glibc {image.version}" == os.confstr("CS_GNU_LIBC_VERSION")
    assert image.banner
    assert image.build_id == readelf_build_id(targets.c_library())


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


def test_the_c_library_of_a_plain_process(waits):
    with targets.running([waits]) as target:
        image = the_libc(target.pid)
        assert_is_this_machines_glibc(image)
        assert image.path == str(targets.c_library())
        assert image.file_readable
        behind = image.mappings[-1]
        assert behind.anonymous and behind.writable, "the end of .bss is missing"
        assert behind.start == image.mappings[-2].end


def test_bias_and_exports_agree_with_the_loader():
    """dlsym in this very process tells where malloc is."""
    image = the_libc(os.getpid())
    with open(image.path, "rb") as file:

        def read(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        parsed = elf.from_file(read)
        library = ctypes.CDLL("libc.so.6")
        for name in (b"malloc", b"malloc_info", b"free", b"qsort_r", b"__curbrk"):
            address = ctypes.cast(getattr(library, name.decode()), ctypes.c_void_p).value
            found = symbols.exported(parsed, name)
            assert found is not None and image.load_bias is not None
            assert found + image.load_bias == address
        assert symbols.exported(parsed, b"main_arena") is None


def test_a_deleted_c_library(waits, tmp_path):
    targets.need_root()
    loader, *arguments = targets.root_with(waits, tmp_path)
    inside = str(tmp_path)
    command = [inside + loader, "--library-path", inside, inside + arguments[-1]]
    with targets.running(command) as target:
        for file in tmp_path.iterdir():
            file.unlink()
        image = the_libc(target.pid)
        assert image.path == f"{tmp_path}/{targets.c_library().name} (deleted)"
        assert_is_this_machines_glibc(image)
        assert image.file_readable


def test_a_replaced_c_library_is_not_taken_for_the_mapped_one(waits, tmp_path):
    """As after an upgrade: there is a file of that name, but it is another."""
    targets.need_root()
    loader, *arguments = targets.root_with(waits, tmp_path)
    inside = str(tmp_path)
    command = [inside + loader, "--library-path", inside, inside + arguments[-1]]
    with targets.running(command) as target:
        library = tmp_path / targets.c_library().name
        library.rename(tmp_path / "old")
        library.write_bytes(b"\x7fELF of another kind")
        (tmp_path / "old").unlink()
        assert_is_this_machines_glibc(the_libc(target.pid))


def test_a_deleted_c_library_without_privilege_is_known_from_memory(waits, tmp_path, monkeypatch):
    loader, *arguments = targets.root_with(waits, tmp_path)
    inside = str(tmp_path)
    command = [inside + loader, "--library-path", inside, inside + arguments[-1]]
    with targets.running(command) as target, open(f"/proc/{target.pid}/mem", "rb", 0) as memory:
        for file in tmp_path.iterdir():
            file.unlink()

        def read(address: int, size: int) -> bytes:
            memory.seek(address)
            return memory.read(size)

        monkeypatch.setattr(libc, "open_mapped_file", lambda pid, mapping: None)
        (image,) = libc.identify(target.pid, procfs.mappings(target.pid), read)
        assert_is_this_machines_glibc(image)
        assert not image.file_readable
        (blind,) = libc.identify(target.pid, procfs.mappings(target.pid))
        assert (blind.kind, blind.version, blind.build_id) == ("glibc", None, None)
        assert blind.mappings == image.mappings


def test_a_process_in_a_chroot(waits, tmp_path):
    targets.need_root()
    command = ["chroot", str(tmp_path), *targets.root_with(waits, tmp_path)]
    with targets.running(command) as target:
        assert Path(f"/proc/{target.pid}/root").readlink() == tmp_path
        image = the_libc(target.pid)
        assert_is_this_machines_glibc(image)
        assert image.file_readable


def test_a_process_in_other_namespaces(waits, tmp_path):
    """Its libraries are on a file system that is mounted in its namespace only."""
    targets.need_root()
    (tmp_path / "files").mkdir()
    (tmp_path / "mount").mkdir()
    start = targets.root_with(waits, tmp_path / "files")
    there = tmp_path / "mount"
    script = (
        f"mount -t tmpfs none {there} && cp {tmp_path}/files/* {there} && "
        f"exec {there}{start[0]} --library-path {there} {there}{start[-1]}"
    )
    command = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script]
    with targets.running(command) as outer:
        pid = targets.only_child(outer.pid)
        assert procfs.status(pid).ns_pid == (pid, 1)
        assert not list(there.iterdir())
        image = the_libc(pid)
        assert_is_this_machines_glibc(image)
        assert image.path == f"{there}/{targets.c_library().name}"
        assert image.file_readable


def test_a_chroot_inside_of_another_namespace(waits, tmp_path):
    """Neither our root nor the target's leads along the path that maps prints."""
    targets.need_root()
    (tmp_path / "files").mkdir()
    (tmp_path / "mount").mkdir()
    start = targets.root_with(waits, tmp_path / "files")
    there = tmp_path / "mount"
    script = (
        f"mount -t tmpfs none {there} && cp {tmp_path}/files/* {there} && "
        f"exec chroot {there} {' '.join(start)}"
    )
    with targets.running(["unshare", "--mount", "sh", "-c", script]) as target:
        library = next(m for m in procfs.mappings(target.pid) if "/libc.so.6" in m.path)
        assert library.path.startswith(str(there))
        with contextlib.ExitStack() as stack:
            file = procfs.open_mapped_file(target.pid, library)
            assert file is not None
            stack.enter_context(file)
            assert file.how == "path"
        assert_is_this_machines_glibc(the_libc(target.pid))


def test_a_c_library_of_another_name_is_known_by_its_soname(waits, tmp_path):
    command = targets.root_with(waits, tmp_path)
    inside = str(tmp_path)
    (tmp_path / targets.c_library().name).rename(tmp_path / "renamed")
    (tmp_path / "libc.so.6").symlink_to("renamed")
    with targets.running(
        [inside + command[0], "--library-path", inside, inside + command[-1]]
    ) as target:
        image = the_libc(target.pid)
        assert image.path == f"{tmp_path}/renamed"
        assert_is_this_machines_glibc(image)


def test_a_static_glibc_program(tmp_path):
    program = targets.compile_c("waits.c", tmp_path / "waits", "-static", "-pthread", "-w")
    with targets.running([program]) as target:
        image = the_libc(target.pid)
        assert (image.kind, image.static, image.load_bias) == ("glibc", True, 0)
        assert image.build_id == readelf_build_id(program)
        assert procfs.auxv(target.pid).base == 0
        vector = procfs.auxv(target.pid)
        assert any(m.start <= vector.entry < m.end for m in image.mappings)
        found = allocators.identify(target.pid, procfs.mappings(target.pid), image)
        assert (found.name, found.others) == ("glibc", ())


def test_a_static_pie_program(tmp_path):
    program = targets.compile_c("waits.c", tmp_path / "waits", "-static-pie", "-pthread", "-w")
    with targets.running([program]) as target:
        image = the_libc(target.pid)
        assert (image.kind, image.static) == ("glibc", True)
        assert image.load_bias == image.mappings[0].start


def test_two_c_libraries_in_one_process():
    """dlmopen loads the same file once more: two images, the first one loaded first."""
    script = (
        "import ctypes, sys\n"
        "dl = ctypes.CDLL(None)\n"
        "dl.dlmopen.restype = ctypes.c_void_p\n"
        "assert dl.dlmopen(ctypes.c_long(-1), b'libc.so.6', 2)\n"
        "print('ready', flush=True)\n"
        "print(ctypes.cast(dl.malloc, ctypes.c_void_p).value, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with targets.running([sys.executable, "-c", script]) as target:
        malloc = int(target.line(targets.READY_SECONDS))
        first, second = libc.identify(target.pid, procfs.mappings(target.pid))
        assert any(m.start <= malloc < m.end for m in first.mappings)
        assert second.path == first.path
        assert not set(first.mappings) & set(second.mappings)
        assert_is_this_machines_glibc(second)


def test_a_preloaded_jemalloc(waits):
    jemalloc = jemalloc_library()
    with targets.running([waits], {"LD_PRELOAD": str(jemalloc)}) as target:
        mappings = procfs.mappings(target.pid)
        assert_is_this_machines_glibc(the_libc(target.pid))
        (found,) = allocators.mapped_allocators(target.pid, mappings)
        assert (found.name, found.serves_malloc) == ("jemalloc", True)
        assert "preloaded" in found.evidence


def test_an_allocator_that_was_loaded_later_does_not_serve_malloc(waits, own_malloc, tmp_path):
    library = tmp_path / "libmimalloc.so.2.0"
    shutil.copy(own_malloc, library)
    with targets.running([waits, "dlopen", library]) as target:
        mappings = procfs.mappings(target.pid)
        found = allocators.identify(target.pid, mappings, the_libc(target.pid))
        assert (found.name, found.others) == ("glibc", ("mimalloc",))


def test_glibc_preloaded_before_a_linked_jemalloc_serves_malloc(tmp_path):
    """As redis-server is run with glibc's malloc."""
    flags = ("-pthread", "-Wl,--no-as-needed", str(jemalloc_library()))
    program = targets.compile_c("waits.c", tmp_path / "waits", *flags)
    with targets.running([program]) as target:
        image = the_libc(target.pid)
        found = allocators.identify(target.pid, procfs.mappings(target.pid), image)
        assert (found.name, found.others) == ("jemalloc", ())
    with targets.running([program], {"LD_PRELOAD": str(targets.c_library())}) as target:
        image = the_libc(target.pid)
        found = allocators.identify(target.pid, procfs.mappings(target.pid), image)
        assert (found.name, found.others) == ("glibc", ("jemalloc",))


def test_an_unknown_library_that_exports_malloc_is_named_after_its_file(waits, own_malloc):
    with targets.running([waits], {"LD_PRELOAD": str(own_malloc)}) as target:
        image = the_libc(target.pid)
        found = allocators.identify(target.pid, procfs.mappings(target.pid), image)
        assert found.name == own_malloc.name


def test_a_preload_through_a_link_and_through_the_loader(waits, own_malloc, tmp_path):
    (tmp_path / "link.so").symlink_to(own_malloc)
    command = [targets.loader(), "--preload", tmp_path / "link.so", waits]
    with targets.running(command, {"LD_PRELOAD": str(tmp_path / "link.so")}) as target:
        image = the_libc(target.pid)
        found = allocators.identify(target.pid, procfs.mappings(target.pid), image)
        assert found.name == own_malloc.name


def test_a_program_with_a_malloc_of_its_own(tmp_path):
    source = str(targets.HERE / "own_malloc.c")
    program = targets.compile_c(
        "waits.c", tmp_path / "waits", source, "-pthread", "-rdynamic", "-fno-builtin"
    )
    with targets.running([program]) as target:
        image = the_libc(target.pid)
        (found,) = allocators.mapped_allocators(target.pid, procfs.mappings(target.pid))
        assert (found.name, found.serves_malloc) == ("waits", True)
        assert found.evidence == "the program itself exports malloc"
        assert image.kind == "glibc"


def jemalloc_library() -> Path:
    path = Path("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2")
    if not path.exists():
        pytest.skip("libjemalloc2 is not installed")
    return path


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
