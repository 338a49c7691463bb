"""Files with names that a line of maps cannot hold as they are: newlines, which the kernel escapes,
backslashes, which it does not, " (deleted)" at the end, escape sequences, a forged line of maps.

The program itself, its C library and files that it maps are called so. What is read must be what
the program and the kernel say, and no name may reach a terminal as it is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from live import targets
from live.cli import command
from live.core_files import gdbs_core
from live.pages import kernel_says

FORGED = "x\n00400000-7f0000000000 rw-p 00000000 00:00 0                          [heap]"
GONE = "gone\nfile"
NAMES = (
    "plain",
    "new\nline",
    "back\\012slash",
    "never was (deleted)",
    "red\x1b[31m\r",
    "nicht ascii é",
    "\n\\012\n (deleted)",
    FORGED,
    GONE,
)


class Odd(NamedTuple):
    """The process, what mallinfo2 said (arena, fordblks), and where everything lies."""

    pid: int
    system_bytes: int
    free_bytes: int
    directory: Path


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    directory = tmp_path_factory.mktemp("names") / "a\nb\\012 (deleted)"
    directory.mkdir()
    program = targets.compile_c("names.c", directory / "pro\ngram")
    library = Path(shutil.copy(targets.c_library(), directory / "libc.so.6"))
    for name in NAMES:
        (directory / name).write_bytes(bytes(4096))
    files = [directory / name for name in NAMES]
    with targets.running(
        [targets.loader(), "--preload", library, "--library-path", directory, program, *files]
    ) as target:
        system_bytes, free_bytes = map(int, target.line(targets.READY_SECONDS).split())
        (directory / GONE).unlink()
        yield Odd(target.pid, system_bytes, free_bytes, directory)


def printable(text: str) -> bool:
    """Nothing but lines of characters that a terminal shows."""
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize(
    "words",
    [
        ["arenas"],
        ["arenas", "--snapshot"],
        ["arenas", "--ask-glibc"],
        ["explain"],
        ["map"],
        ["map", "--raw"],
        ["pins"],
        ["trim"],
        ["tune"],
        ["doctor"],
        ["doctor", "--layout"],
    ],
    ids=" ".join,
)
def test_no_name_reaches_the_terminal_as_it_is(odd: Odd, words: list[str]) -> None:
    done = command(*words, str(odd.pid))
    assert (done.returncode, done.stderr) == (0, "")
    assert printable(done.stdout)


def test_the_heap_is_read_exactly(odd: Odd, tmp_path: Path) -> None:
    recording = tmp_path / "a.rec"
    assert command("record", str(odd.pid), "-o", str(recording)).returncode == 0
    core = gdbs_core(odd.pid, tmp_path)
    for words in ([str(odd.pid)], ["--snapshot", str(odd.pid)], [str(recording)], [str(core)]):
        done = command("arenas", "--json", *words)
        answer = json.loads(done.stdout)
        assert done.returncode == 0
        if words != [str(core)]:  # gdb notes names as maps prints them, so no file has this one
            assert f"glibc {answer['libc']['version']}" == os.confstr("CS_GNU_LIBC_VERSION")
        totals = answer["data"]["totals"]
        free = totals["top_bytes"] + totals["fastbin_bytes"] + totals["bin_bytes"]
        assert (totals["system_bytes"], free) == (odd.system_bytes, odd.free_bytes)
        assert (totals["residue_bytes"], totals["unread_bytes"]) == (0, 0)


def test_each_file_is_one_mapping_and_no_forged_line_is_another(odd: Odd) -> None:
    data = json.loads(command("map", "--raw", "--json", str(odd.pid)).stdout)["data"]
    inodes = {(odd.directory / name).stat().st_ino for name in NAMES if name != GONE}
    kernel = Path(f"/proc/{odd.pid}/maps").read_bytes().decode(errors="surrogateescape")
    lines = [line.split(maxsplit=5) for line in kernel.split("\n") if line]
    printed = {line[5] for line in lines if int(line[4]) in inodes}
    assert len(printed) == len(inodes)
    owners = [row["owner"] for row in data["rows"]]
    assert all(owners.count(path) == 1 for path in printed)
    assert owners.count("main heap") == 1
    assert "[heap]" not in owners
    assert sum(row["sizes"]["virtual_bytes"] for row in data["rows"]) == kernel_says(
        odd.pid, "Size"
    )
    assert data["totals"]["resident_bytes"] == kernel_says(odd.pid, "Rss")
