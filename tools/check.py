"""``./dev check``: everything that a change must pass, in one run, cheapest first.

Strategy: a list of named steps. Each runs whether or not the one before it passed, so that one call
tells all; the last lines name what failed. Exit status 1 when anything did.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import skips
from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
C_FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-c", "-o", "/dev/null"]
CROSS = "aarch64-linux-gnu-gcc"
C_INCLUDES = ["-Iprobes/include", "-Iprobes/src", "-Ifixtures/common"]
SANITIZERS = "-g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined"
SANITIZED_TESTS = ["tests/unit", "tests/fuzz", "tests/glibcs", "tests/live/test_repro.py"]
PYTEST_ALONE = """
import os, sys, pytest
for name in ("LD_PRELOAD", "PYTHONPATH"):  # for this process, not for the targets it starts
    del os.environ[name]
sys.exit(pytest.main(sys.argv[1:]))
"""


def run(*command: str | Path, **environment: str) -> bool:
    """Runs a command in the project's root; True when it exits with 0."""
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False)
    return done.returncode == 0


def formatted() -> bool:
    return run(BIN / "ruff", "format", "--check", ".")


def linted() -> bool:
    return run(BIN / "ruff", "check", ".")


def typed() -> bool:
    return run(BIN / "mypy")


def c_sources() -> list[Path]:
    """All C files that people wrote: what cffi generates lies elsewhere."""
    folders = (ROOT / name for name in ("probes/src", "fixtures", "tests"))
    return sorted(path for folder in folders for path in folder.rglob("*.c"))


def c_without_warnings() -> bool:
    compilers = [name for name in ("gcc", "clang") if shutil.which(name)]
    print(f"compilers: {', '.join(compilers)}")
    jobs = [(compiler, source) for compiler in compilers for source in c_sources()]
    failed = [job for job in jobs if not run(job[0], *C_FLAGS, *C_INCLUDES, job[1])]
    print(f"{len(jobs)} compilations, {len(failed)} failed")
    return bool(jobs) and not failed


def built_for_aarch64() -> bool:
    """The native helper for a machine that is not here: without warnings, and with all that its
    headers promise."""
    if not shutil.which(CROSS):
        print(f"{CROSS} is not installed")
        return False
    sources = sorted((ROOT / "probes/src").glob("*.c"))
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory) / "probes.so"
        flags = [*C_FLAGS[:-3], *C_INCLUDES, "-shared", "-fPIC", "-Wl,--no-undefined"]
        if not run(CROSS, *flags, *sources, "-o", library):
            return False
        with library.open("rb") as file:
            table: Any = ELFFile(file).get_section_by_name(".dynsym")
            found = [symbol for symbol in table.iter_symbols() if symbol["st_shndx"] != "SHN_UNDEF"]
            defined = {symbol.name for symbol in found}
    headers = (path.read_text() for path in (ROOT / "probes/include").glob("*.h"))
    code = re.sub(r"/\*.*?\*/", "", "\n".join(headers), flags=re.DOTALL)
    promised = set(re.findall(r"\b(as_\w+)\(", code))
    missing = sorted(promised - defined)
    print(f"{len(promised)} functions promised, missing: {', '.join(missing) or 'none'}")
    return bool(promised) and not missing


def tested() -> bool:
    """By the README's own command."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "junit.xml"
        passed = run(ROOT / "dev", "test", f"--junitxml={report}")
        return skips.judge(report) and passed


def matrix() -> bool:
    """Every glibc of the archive, with every fixture and one seed, as a table."""
    words = ["-m", "glibcs.matrix", "--seeds", "1", "--print"]
    return run(sys.executable, *words, PYTHONPATH="tests")


def sanitized() -> bool:
    """Tests that call the native helper, again, on one that watches its memory and arithmetic."""
    runtime = subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as directory:
        build = Path(directory)
        setup = ["setup.py", "--quiet", "build", f"--build-base={build}/tmp"]
        setup += [f"--build-lib={build}/lib"]
        if not run(sys.executable, *setup, CFLAGS=SANITIZERS, LDFLAGS=SANITIZERS):
            return False
        # --capture=sys leaves descriptor 2 alone, on which the sanitizers say what they found.
        pytest = ["-P", "-c", PYTEST_ALONE, "-q", "--capture=sys", "-p", "no:cacheprovider"]
        return run(
            *[sys.executable, *pytest, *SANITIZED_TESTS, "-m", "not own_malloc"],
            PYTHONPATH=str(build / "lib"),
            LD_PRELOAD=runtime,
            ASAN_OPTIONS="detect_leaks=0",
            UBSAN_OPTIONS="print_stacktrace=1",
        )


STEPS: list[tuple[str, Callable[[], bool]]] = [
    ("format", formatted),
    ("lint", linted),
    ("types", typed),
    ("C without warnings", c_without_warnings),
    ("native helper for aarch64", built_for_aarch64),
    ("tests, one seed for each glibc", tested),
    ("every glibc with every fixture", matrix),
    ("native helper under ASan and UBSan", sanitized),
]


def main() -> int:
    failed = []
    for title, step in STEPS:
        print(f"\n== {title}", flush=True)
        begun = time.monotonic()
        passed = step()
        print(f"-- {title}: {'ok' if passed else 'FAILED'}, {time.monotonic() - begun:.1f} s")
        failed += [] if passed else [title]
    print(f"\ncheck: {'FAILED: ' + '; '.join(failed) if failed else 'all passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
