"""Builds a C program that runs under every glibc, and starts it under a chosen one.

Strategy: this machine's own gcc, with the symbols bound to the versions that the oldest tree has
(``old_symbols.h``) and an entry point of our own (``start.c``): nothing to download, and the same
binary everywhere. Whether it worked is read from the binary, not assumed.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from allocscope.lab import fixture
from glibcs.fetch import Tree

HERE = Path(__file__).resolve().parent
OLDEST = (2, 31)
RESTING_FIXTURES = [name for name in fixture.names() if name != "busy"]
"""Those that come to a state that one can compare with; the other goes on allocating."""


class TooNew(Exception):
    """The program needs symbols that the oldest glibc does not have."""


def flags_for(machine: str) -> list[str]:
    """What makes gcc compile for ``machine`` (Debian's name). A compiler with 32-bit libraries
    finds the kernel's headers only where its own machine has them."""
    if machine != "i386":
        return []
    own = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=True)
    return ["-m32", "-idirafter", f"/usr/include/{own.stdout.strip()}"]


def build(
    sources: Sequence[Path], program: Path, *further_flags: str, machine: str = "amd64"
) -> Path:
    """Compiles and links ``program``. :class:`TooNew` when the oldest glibc would not run it."""
    flags = [*flags_for(machine), *further_flags]
    compiler = "aarch64-linux-gnu-gcc" if machine == "arm64" else "gcc"
    command = [compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", *flags]
    command += ["-no-pie", "-Wl,--defsym=mallinfo2=0"]  # 2.33: weak references find nothing
    command += ["-nostartfiles", "-include", str(HERE / "old_symbols.h"), str(HERE / "start.c")]
    subprocess.run([*command, *map(str, sources), "-o", str(program)], check=True)
    newer = {version for version in versions_needed(program) if version > OLDEST}
    if newer:
        raise TooNew(f"{program.name} needs glibc {'.'.join(map(str, max(newer)))}")
    return program


def fixture_program(name: str, directory: Path, machine: str = "amd64") -> Path:
    """A fixture (fixtures/NAME), built to run under every glibc."""
    sources = fixture.sources()
    common = sources / "common"
    files = [*sorted(common.glob("*.c")), sources / name / f"{name}.c"]
    return build(files, directory / f"{name}-{machine}", f"-I{common}", machine=machine)


def versions_needed(program: Path) -> set[tuple[int, ...]]:
    """The GLIBC_x.y versions that a program's symbols are bound to."""
    with program.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".gnu.version_r")
        if not isinstance(section, GNUVerNeedSection):
            return set()
        names = [need.name for _, needs in section.iter_versions() for need in needs]
    numbers = [name.removeprefix("GLIBC_") for name in names if name.startswith("GLIBC_2")]
    return {tuple(int(part) for part in number.split(".")) for number in numbers}


def loader_of(tree: Tree) -> list[str]:
    """A command prefix: what follows it runs with the tree's loader and libraries, not ours."""
    command = [str(tree.loader), "--library-path", str(tree.libraries)]
    if (tree.libraries / "libpthread.so.0").exists():  # threads live in it below 2.34
        command += ["--preload", str(tree.libraries / "libpthread.so.0")]
    return command


@contextlib.contextmanager
def running(
    tree: Tree,
    program: Path,
    *arguments: str,
    wrapper: Sequence[str] = (),
    **environment: str,
) -> Iterator[dict[str, Any]]:
    """Runs a program that follows the fixtures' protocol: yields its ready line, ends it by EOF.
    ``wrapper``: a command that becomes the program."""
    with subprocess.Popen(
        [*wrapper, *loader_of(tree), str(program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], **environment},
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"{program.name} under {tree.version} ended with {process.wait()}")
        ready: dict[str, Any] = json.loads(line)
        yield ready
