"""`ask --what runtime`: runtimes and other allocators print about themselves, in a copy, and what
they say is what the program holds."""

from __future__ import annotations

import ctypes.util
import sys
from collections.abc import Callable

import pytest
from live.cli import assert_refused, command, condition
from live.programs import READY_SECONDS
from live.test_contract import answer

from allocscope.lab.child import child
from allocscope.lab.fixture import RunningFixture

MIB = 1 << 20
COUNT = 40_000
SIZE = 1000
HOLDS = f"""
held = [bytes({SIZE}) for _ in range({COUNT})]
print("ready", flush=True)
input()
"""
LIBRARIES = {
    "jemalloc": ("libjemalloc.so.2", "allocated"),
    "mimalloc": ("libmimalloc.so.2", "committed current"),
    "tcmalloc": ("libtcmalloc_minimal.so.4", "bytes in use by application"),
}


def test_cpython_tells_of_its_arenas_and_the_process_stays_as_it_was() -> None:
    code = "held = [(number, number) for number in range(400_000)]\nprint('ready', flush=True)\n"
    with child([sys.executable, "-c", code + "input()"]) as program:
        assert program.line(READY_SECONDS) == "ready"
        before = condition(program.pid)
        said = answer("ask", str(program.pid), "--what", "runtime")["data"]
        assert condition(program.pid) == before
    (own,) = said["own"]
    assert (own["speaker"], own["function"]) == ("CPython", "_PyObject_DebugMallocStats")
    figures = {figure["name"]: figure["bytes"] for figure in own["figures"]}
    assert figures["bytes in allocated blocks"] > 400_000 * 56  # a pair, and what finds it
    assert said["malloc_info_xml"] is None


@pytest.mark.parametrize("name", LIBRARIES)
def test_an_allocator_tells_what_it_serves(name: str) -> None:
    library, figure = LIBRARIES[name]
    if ctypes.util.find_library(library.partition(".so")[0].removeprefix("lib")) is None:
        pytest.skip(f"{library} not installed")
    environment = {"LD_PRELOAD": library, "PYTHONMALLOC": "malloc"}
    with child([sys.executable, "-c", HOLDS], environment=environment) as program:
        assert program.line(READY_SECONDS) == "ready"
        said = answer("ask", str(program.pid), "--what", "runtime")["data"]
    figures = {
        one["speaker"]: {f["name"]: f["bytes"] for f in one["figures"]} for one in said["own"]
    }
    assert COUNT * SIZE < figures[name][figure] < 2 * COUNT * SIZE + 32 * MIB


def test_a_program_without_any_is_told_so(running: Callable[..., RunningFixture]) -> None:
    pid = running("healthy", scale=0.1).pid
    assert_refused(command("ask", str(pid), "--what", "runtime"), 2, "no runtime", "CPython")
    live = command("ask", str(pid), "--what", "runtime", "--live")
    assert_refused(live, 2, "in a copy only", "--live")
