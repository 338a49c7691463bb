"""Targets of every kind that /proc can show: programs built here, and places to run them in.

Each says ``ready`` on a line of its own and ends at EOF on its stdin. Nothing waits by time.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import pkgutil
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from unit import tiny_elf

import allocscope
from allocscope.errors import MissingPart
from allocscope.lab.child import Child, child

HERE = Path(__file__).parent
READY_SECONDS = 60.0

_READY_32 = (
    b"\xb8\x04\0\0\0\xbb\x01\0\0\0\xe8\0\0\0\0\x59\x83\xc1\x14\xba\x06\0\0\0\xcd\x80"
    b"\xb8\x1d\0\0\0\xcd\x80\xeb\xf7ready\n"
)
"""write(1, "ready\\n", 6), then pause() for ever, for 32-bit x86: the text lies 0x14 bytes behind
the ``pop %ecx`` that finds its own place."""

_READY_64 = (
    b"\xb8\x01\0\0\0\xbf\x01\0\0\0\x48\x8d\x35\x10\0\0\0\xba\x06\0\0\0\x0f\x05"
    b"\xb8\x22\0\0\0\x0f\x05\xeb\xf7ready\n"
)
"""The same for x86-64."""


@contextlib.contextmanager
def running(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    ends_at_eof: bool = True,
) -> Iterator[Child]:
    """A program that has said ``ready``."""
    with child([str(word) for word in command], environment, ends_at_eof) as started:
        assert started.line(READY_SECONDS) == "ready"
        yield started


def compile_c(source: str, output: Path, *flags: str, compiler: str = "gcc") -> Path:
    """Builds a source of this directory. Skips the test where the compiler is missing."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    command = [compiler, "-O1", "-Wall", "-Werror", "-o", str(output), str(HERE / source), *flags]
    subprocess.run(command, check=True, timeout=READY_SECONDS)
    return output


def loader() -> Path:
    """The loader of this machine's glibc."""
    return Path("/lib64/ld-linux-x86-64.so.2").resolve()


def c_library() -> Path:
    """The C library of this machine, as a file."""
    return next(
        Path(line.split()[-1])
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/libc.so.6" in line
    )


def root_with(program: Path, root: Path) -> list[str]:
    """Fills ``root`` with a loader, a C library and a program, and gives the command that starts
    the program from there, as seen from inside."""
    for file in (loader(), c_library(), program):
        shutil.copy(file, root / file.name)
    return [f"/{loader().name}", "--library-path", "/", f"/{program.name}"]


def program_32(path: Path) -> Path:
    """A program for 32-bit x86, made by hand. Skips where this kernel cannot run it."""
    path.write_bytes(tiny_elf.program_32(_READY_32))
    path.chmod(0o755)
    try:
        with child([str(path)], ends_at_eof=False):
            return path
    except MissingPart as error:
        pytest.skip(f"this kernel has no support for 32-bit programs: {error.message}")


def program_of_go(path: Path) -> Path:
    """A static program with the note that Go's linker writes, and no C library."""
    return _program_64(path, tiny_elf.note(b"Go", 4, b"xyz/uvw/abc/def"))


def program_of_nothing(path: Path) -> Path:
    """A static program that calls the kernel itself and contains nothing else."""
    return _program_64(path, b"")


def _program_64(path: Path, notes: bytes) -> Path:
    path.write_bytes(tiny_elf.program_64(_READY_64, notes))
    path.chmod(0o755)
    return path


def wait_until(condition: Callable[[], bool]) -> None:
    """Lets others run until ``condition()`` holds."""
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "what was waited for never came"
        os.sched_yield()


def only_child(pid: int) -> int:
    """The one process that ``pid`` has forked."""
    (found,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found)


def in_fork(action: Callable[[], str]) -> str:
    """What ``action`` returned in a forked copy of this process, which it may leave in any state:
    another user, another namespace. An exception comes back as ``Class: message``."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            text = action()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode(errors="replace")[:60000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        text = file.read().decode()
    os.waitpid(pid, 0)
    return text


def become_nobody() -> None:
    """Gives up every privilege for good. Modules are loaded before: nobody may not be allowed to
    read this checkout."""
    for module in pkgutil.walk_packages(allocscope.__path__, "allocscope."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)


def forbid_dumps() -> None:
    """PR_SET_DUMPABLE 0: other processes of the same user may no longer look at this one."""
    pr_set_dumpable = 4
    if ctypes.CDLL(None).prctl(pr_set_dumpable, 0, 0, 0, 0) != 0:
        raise OSError("cannot forbid dumps")


def hide_processes() -> None:
    """Mounts /proc anew, in a namespace of this process's own, so that it hides other users'
    processes."""
    libc = ctypes.CDLL(None, use_errno=True)
    clone_newns, ms_rec, ms_private = 0x20000, 16384, 1 << 18
    calls = (
        lambda: libc.unshare(clone_newns),
        lambda: libc.mount(None, b"/", None, ms_rec | ms_private, None),
        lambda: libc.mount(b"proc", b"/proc", b"proc", 0, b"hidepid=2"),
    )
    for call in calls:
        if call() != 0:
            raise OSError(ctypes.get_errno(), "cannot hide processes")


def need_root() -> None:
    """Skips a test that must be root to build its target."""
    if os.geteuid() != 0:
        pytest.skip("needs root (CAP_SYS_ADMIN)")
