"""The C library and the allocators of real processes, in every place where they can be; the truth
comes from the processes, from confstr, dlsym and binutils."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from live import targets

from allocscope.model.libc import LibcImage
from allocscope.parse import elf, symbols
from allocscope.proc import allocators, libc, procfs


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
        "print(ctypes.cast(dl.malloc_info, ctypes.c_void_p).value, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with targets.running([sys.executable, "-c", script]) as target:
        # one that Python does not call: for those a program that is no PIE has a stub
        function = int(target.line(targets.READY_SECONDS))
        first, second = libc.identify(target.pid, procfs.mappings(target.pid))
        assert any(m.start <= function < m.end for m in first.mappings)
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
