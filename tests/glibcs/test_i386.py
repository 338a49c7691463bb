"""What is different for 32-bit programs: threads found through a system call of their own kind, and
a glibc that is not asked."""

from __future__ import annotations

import subprocess
import sys

import pytest
from elftools.elf.elffile import ELFFile

from allocscope import observe
from allocscope.parse import elf, symbols
from glibcs import fetch, programs


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    tree = fetch.tree("bookworm", machine="i386")
    if isinstance(tree, fetch.NotFetched):
        pytest.skip(f"the archive does not answer for {tree.suite}: {tree.reason}")
    program = tmp_path_factory.mktemp("bin") / "stress"
    programs.build([programs.HERE / "stress.c"], program, machine="i386")
    with programs.running(tree, program, "4", "6", "5000") as ready:
        yield ready["pid"]


def test_every_thread_tells_of_its_arena_and_its_tcache(running):
    report = observe(running)
    assert len(report.data.threads) > 1
    assert all(thread.arena_index is not None for thread in report.data.threads)
    assert all(thread.tcache_address for thread in report.data.threads)
    assert "tcaches-by-shape" not in [caveat.code for caveat in report.caveats]


def test_who_serves_malloc_is_told(running):
    assert observe(running).allocator.name == "glibc"
    path = fetch.tree("bookworm", machine="i386").libraries / "libc.so.6"
    content = path.read_bytes()
    image = elf.from_file(lambda at, size: content[at : at + size])
    with path.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        [malloc] = table.get_symbol_by_name("malloc")
    assert symbols.exported(image, b"malloc") == malloc["st_value"]
    assert symbols.exported(image, b"mi_malloc") is None


@pytest.mark.parametrize(
    "words",
    [
        ["ask"],
        ["ask", "--live"],
        ["arenas", "--snapshot"],
        ["arenas", "--ask-glibc"],
        ["record", "--snapshot"],
    ],
    ids=" ".join,
)
def test_what_stops_or_calls_is_refused_and_says_what_works(running, words, tmp_path):
    output = ["-o", str(tmp_path / "a.rec")] if words[0] == "record" else []
    command = [sys.executable, "-m", "allocscope", *words, *output, str(running)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert "32-bit program" in done.stderr
    assert "`allocscope arenas PID`" in done.stderr
    assert list(tmp_path.iterdir()) == []
