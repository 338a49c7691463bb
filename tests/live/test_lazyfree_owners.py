"""Whose lazily freed pages are: runtimes and allocators that are known by their own structures.

The truth is the program's own (what it holds, what its runtime counts), its symbol table, and the
kernel's LazyFree. Few of them use MADV_FREE by themselves: the others have their memory, but for
pages with headers, marked by a preloaded library (targets/marks.c), which changes no byte.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from live.bad_targets import preloadable
from live.pages import kernel_says
from live.programs import NotInstalled, installed
from live.targets import HERE, compile_c, running, wait_until

from allocscope.app.lazyfree import lazyfree
from allocscope.lab.child import Child
from allocscope.model.lazyfree import LazyfreeData

MIB = 1 << 20
HELD_BY_GO = 40 * 16384
GIVEN_BACK_BY_GO = 3960 * 16384
HELD_BY_C = 128 * 65536
"""What gives_back.go and gives_back.c have kept."""

NODE = """
const v8 = require('v8'); const held = [];
for (let i = 0; i < 200000; i++) held.push({x: i, y: 's' + i});
console.log('ready');
process.stdin.on('data', () => console.log(v8.getHeapStatistics().total_physical_size));
process.stdin.on('end', () => process.exit(held.length ? 0 : 1));
"""


@contextlib.contextmanager
def marked(
    directory: Path, command: list[str], environment: Mapping[str, str], least_bytes: int
) -> Iterator[Child]:
    """A program whose anonymous memory, at least so much of it, is lazily freed."""
    library = compile_c("marks.c", directory / "marks.so", "-shared", "-fPIC")
    preload = f"{library} {environment.get('LD_PRELOAD', '')}".strip()
    with running(command, {**environment, "LD_PRELOAD": preload}) as target:
        os.kill(target.pid, signal.SIGUSR2)
        wait_until(lambda: kernel_says(target.pid, "LazyFree") >= least_bytes)
        yield target


def held_by(data: LazyfreeData, owner: str) -> int:
    return sum(row.lazyfree_bytes for row in data.owners if row.name == owner)


def go_program(directory: Path, *, with_c: bool) -> Path:
    """gives_back.go; ``with_c``: linked with glibc, as a program that calls C is."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("go not installed")
    (directory / "main.go").write_text((HERE / "gives_back.go").read_text())
    if with_c:
        text = (
            'package main\n// #include <stdlib.h>\nimport "C"\nfunc init() { C.free(C.malloc(9)) }'
        )
        (directory / "c.go").write_text(text + "\n")
    (directory / "go.mod").write_text("module gives_back\n")
    subprocess.run([go, "build", "-o", "program", "."], cwd=directory, check=True, timeout=600)
    return directory / "program"


@pytest.mark.parametrize("with_c", [False, True])
def test_go_is_known_by_its_table_of_arenas(tmp_path: Path, with_c: bool) -> None:
    """The place of the table is inside runtime.mheap_, where the program's symbols say that is."""
    program = go_program(tmp_path, with_c=with_c)
    with running([program], {"GODEBUG": "madvdontneed=0"}) as target:
        data = lazyfree(target.pid).data
        assert held_by(data, "Go heap") == data.lazyfree_bytes > GIVEN_BACK_BY_GO * 9 // 10
        [root] = {
            int(found[1], 16)
            for m in data.mappings
            if (found := re.search(r"arenas at (0x[0-9a-f]+)", m.owner.evidence))
        }
        listed = subprocess.run(
            ["go", "tool", "nm", "-size", str(program)], check=True, capture_output=True, text=True
        )
        [symbol] = [line for line in listed.stdout.splitlines() if line.endswith(" runtime.mheap_")]
        start, size = symbol.split()[:2]
        assert int(start, 16) <= root < int(start, 16) + int(size)


@pytest.mark.parametrize(
    ("library", "owner"),
    [
        ("libtcmalloc_minimal.so.4", "tcmalloc"),
        ("libjemalloc.so.2", "jemalloc"),
        ("libmimalloc.so.2", "mimalloc"),
    ],
)
def test_allocators_are_known_by_their_structures(tmp_path: Path, library: str, owner: str) -> None:
    program = compile_c("gives_back.c", tmp_path / "gives_back")
    settings = {"LD_PRELOAD": preloadable(library), "MARKS_ONES": "1"}
    with marked(tmp_path, [str(program)], settings, HELD_BY_C // 2) as target:
        data = lazyfree(target.pid).data
        assert held_by(data, owner) > HELD_BY_C // 2
        assert held_by(data, "glibc") == 0
        assert held_by(data, "unknown") < MIB


def test_large_chunks_and_heaps_are_glibcs(tmp_path: Path) -> None:
    """Blocks in the main heap, and by the threshold of mmap in mappings of their own."""
    program = compile_c("gives_back.c", tmp_path / "gives_back")
    for threshold in ("131072", "4096"):
        settings = {"MALLOC_MMAP_THRESHOLD_": threshold, "MARKS_ONES": "1"}
        with marked(tmp_path, [str(program)], settings, HELD_BY_C // 2) as target:
            data = lazyfree(target.pid).data
            assert held_by(data, "glibc") > HELD_BY_C // 2
            assert held_by(data, "unknown") < MIB


def test_v8_is_known_by_its_chunks(tmp_path: Path) -> None:
    """By V8's own count of its memory that is there, which some of its pages changed since."""
    try:
        node = installed("node")
    except NotInstalled as missing:
        pytest.skip(str(missing))
    with marked(tmp_path, [node, "-e", NODE], {}, 20 * MIB) as target:
        data = lazyfree(target.pid).data
        target.send(b"\n")
        counted = json.loads(target.line(60))
        own = [m for m in data.mappings if m.owner.name == "V8 heap"]
        there = sum(m.resident_bytes for m in own)
        assert counted * 8 // 10 < there < counted * 11 // 10
        assert 0 < held_by(data, "V8 heap") <= there
