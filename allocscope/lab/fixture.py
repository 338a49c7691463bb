"""Builds the fixture programs and runs them: one C program for each pathology, which tells its own
truth.

Strategy: the sources travel with the package and are compiled where they are needed, once, into the
user's cache, under a name that is a digest of everything that went in. A fixture prints one JSON
line when its state is built and all its threads sleep; it ends at EOF on its stdin.

Rule: a program appears in the cache whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from allocscope.errors import InternalError, MissingPart, WrongUsage
from allocscope.immutable import immutable
from allocscope.lab.child import Child, child

FLAGS = ("-std=gnu11", "-O2", "-g", "-pthread")
COMPILERS = ("cc", "gcc", "clang")
BUILD_SECONDS = 120.0
READY_SECONDS = 60.0


@immutable
class RunningFixture:
    """A fixture that said ready. ``truth`` maps the figures of fixtures/common/truth.h (bytes
    and counts) to what the program knows of itself; None where it cannot know."""

    name: str
    pid: int
    seed: int
    truth: Mapping[str, int | None]
    child: Child

    @property
    def process(self) -> subprocess.Popen[bytes]:
        return self.child.process

    def trim(self) -> bool:
        """Makes the fixture call malloc_trim(0) and returns what that returned. After that, only
        what the program holds is still as ``truth`` says."""
        self.child.send(b"t")
        trimmed = bool(json.loads(self.child.line(READY_SECONDS))["trimmed"])
        _wait_until_asleep(self.pid)
        return trimmed


def sources() -> Path:
    """The directory that holds ``common/`` and one directory for each fixture: in the package when
    it is installed, at the top of the source tree otherwise.

    Raises InternalError where neither is there."""
    here = Path(__file__).resolve().parent
    for candidate in (here / "fixtures", here.parents[1] / "fixtures"):
        if (candidate / "common" / "truth.h").is_file():
            return candidate
    raise InternalError(
        "the fixture sources are missing from this installation", "Install allocscope again."
    )


def names() -> tuple[str, ...]:
    """Every fixture there is, in alphabetical order."""
    return tuple(
        sorted(
            path.parent.name for path in sources().glob("*/*.c") if path.stem == path.parent.name
        )
    )


def summary(name: str) -> str:
    """What a fixture builds: the first sentence of its source, without its name."""
    text = (sources() / name / f"{name}.c").read_text()
    found = re.match(rf"/\* {re.escape(name)}: (.*?\.)(?=\s)", text, re.DOTALL)
    if not found:
        raise InternalError(f"the source of the fixture {name} does not say what it is")
    return " ".join(found.group(1).split())


def build(name: str, compiler: Sequence[str] = ()) -> Path:
    """Compiles a fixture, unless it is in the cache already, and returns the program's path.

    ``compiler``: a C compiler and its options, for a program of another libc; by default
    ``$CC``, cc, gcc or clang. Raises WrongUsage (no such fixture), MissingPart (no compiler, or
    it fails)."""
    if name not in names():
        raise WrongUsage(
            f"there is no fixture called {name!r}", f"There are: {', '.join(names())}."
        )
    command = [*(compiler or default_compiler()), *FLAGS]
    inputs = [*sorted((sources() / "common").iterdir()), sources() / name / f"{name}.c"]
    digest = hashlib.sha256("\0".join(command).encode())
    for path in inputs:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    program = _cache() / digest.hexdigest()[:16] / name
    if not program.exists():
        _compile(command, inputs, program)
    return program


@contextlib.contextmanager
def run(
    name: str,
    seed: int = 1,
    scale: float = 1.0,
    threads: int | None = None,
    command_prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    program: Path | None = None,
) -> Iterator[RunningFixture]:
    """Runs a fixture for the length of a ``with`` block, in which it stands still with its state
    built.

    ``threads``: None for the fixture's own number. ``command_prefix``: a command that ends by
    executing the rest of its arguments (a loader, taskset, env). ``environment``: added to this
    process's. ``program``: built elsewhere. Raises what `build` raises, and MissingPart where
    the fixture does not get ready."""
    command = [
        *command_prefix,
        str(program or build(name)),
        "--seed",
        str(seed),
        "--scale",
        str(scale),
    ]
    if threads is not None:
        command += ["--threads", str(threads)]
    with child(command, environment) as started:
        told = json.loads(started.line(READY_SECONDS * max(1.0, scale)))
        _wait_until_asleep(told["pid"])
        yield RunningFixture(name, told["pid"], told["seed"], told["truth"], started)


def default_compiler() -> tuple[str, ...]:
    """The C compiler's command: ``$CC``, else the first of cc, gcc and clang on the path.

    Raises MissingPart where there is none."""
    chosen = os.environ.get("CC", "").split()
    if chosen:
        return tuple(chosen)
    for candidate in COMPILERS:
        found = shutil.which(candidate)
        if found:
            return (found,)
    raise MissingPart(
        "fixtures are C programs, and there is no C compiler here", "Run: apt install gcc libc6-dev"
    )


def _wait_until_asleep(pid: int) -> None:
    """The other threads slept when the line was written; this is about the one that wrote it."""
    deadline = time.monotonic() + READY_SECONDS
    state = ""
    while state != "S" and time.monotonic() < deadline:
        os.sched_yield()
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError as error:
            raise MissingPart(f"the fixture {pid} went away", "Was it killed?") from error


def _cache() -> Path:
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "allocscope" / "fixtures"
    )


def _compile(command: Sequence[str], inputs: Sequence[Path], program: Path) -> None:
    """Compiles next to the final place and renames, so that nobody ever runs half a program."""
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as directory:
        unfinished = Path(directory) / program.name
        units = [str(path) for path in inputs if path.suffix == ".c"]
        include = f"-I{sources() / 'common'}"
        try:
            done = subprocess.run(
                [*command, include, *units, "-o", str(unfinished)],
                capture_output=True,
                timeout=BUILD_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MissingPart(
                f"the C compiler {command[0]} does not run: {error}",
                "Run: apt install gcc libc6-dev",
            ) from error
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            raise MissingPart(
                f"the C compiler {command[0]} cannot build the fixture {program.name}:\n{said}",
                "Run: apt install gcc libc6-dev",
            )
        unfinished.replace(program)
