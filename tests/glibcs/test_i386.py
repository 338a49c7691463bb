"""What is different for 32-bit programs: threads found through a system call of their own kind, and
a glibc that is not asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from live.pages import kernel_says
from live.programs import READY_SECONDS

from allocscope import observe
from allocscope.app.explain import ExplainOptions, explain
from allocscope.app.map import map_process
from allocscope.app.pins import pins
from allocscope.app.pins_search import PinsOptions
from allocscope.lab.child import child
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


@pytest.fixture
def pinned(tmp_path):
    """A heap that one object holds, as the program itself says where."""
    tree = fetch.tree("bookworm", machine="i386")
    if isinstance(tree, fetch.NotFetched):
        pytest.skip(f"the archive does not answer for {tree.suite}: {tree.reason}")
    source = programs.HERE.parent / "live" / "targets" / "pinned.c"
    program = programs.build([source], tmp_path / "pinned", machine="i386")
    with child([*programs.loader_of(tree), str(program)]) as target:
        said = json.loads(target.line(READY_SECONDS))
        assert target.line(READY_SECONDS) == "ready"
        yield target.pid, said


def test_what_holds_a_heap_is_named_with_all_who_point_at_it(pinned):
    pid, said = pinned
    report = pins(pid, PinsOptions())
    pin = report.data.pins[0]
    assert pin.chunk == said["order"] - 8
    assert (pin.arena_index, pin.held_by, pin.run_count) == (0, "live", 1)
    assert pin.size_bytes == (said["size"] + 4 + 15) // 16 * 16
    assert pin.free_bytes_below == said["free_bytes"]
    assert (pin.kind.type, pin.kind.name) == ("vtable", "shop::Order")
    by_name = {referrer.where: referrer for referrer in pin.referrers}
    assert by_name["pinned!last_order"].to_start
    node = by_name[f"heap chunk {said['node'] - 8:#x}"]
    assert not node.to_start
    assert node.address == said["node"] + 4
    assert "pinned!cache_head" in node.through
    assert any(name.startswith("stack of thread ") for name in by_name)
    assert "owners-of-32-bit" in [caveat.code for caveat in report.caveats]


def test_every_byte_has_an_owner_and_threads_have_their_stacks(pinned):
    pid, _ = pinned
    mapped = map_process(pid, raw=True, deadline_s=30)
    explained = explain(pid, ExplainOptions())
    tids = {int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()}
    stacks = {part.owner for part in mapped.data.rows if part.key == "thread-stacks"}
    assert len(stacks) == len(tids)
    assert explained.data.rss_bytes == kernel_says(pid, "Rss")
    assert explained.data.drift_bytes == 0
    codes = {caveat.code for caveat in (*mapped.caveats, *explained.caveats)}
    assert "owners-of-32-bit" in codes
