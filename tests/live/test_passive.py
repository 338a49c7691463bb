"""Passive reading is passive: no thread of the target is stopped or woken, no page is mapped into
it, nothing is written. Each test shows with another reader that it can fail."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from live import pages
from live.cli import command, unharmed
from live.steady import build

import allocscope.app.arenas as app
from allocscope.app import heap
from allocscope.app.target import look
from allocscope.lab.child import Child, child
from allocscope.lab.fixture import RunningFixture
from allocscope.model.heap import ArenasData
from allocscope.parse import maps
from allocscope.proc.memory import ProcessMemory

PATIENCE_S = 20.0
READINGS = 20


@dataclasses.dataclass(frozen=True)
class Quiet:
    """A running targets/quiet.c. ``untouched``: start and size of pages that do not exist yet."""

    child: Child
    untouched: tuple[int, int]

    @property
    def pid(self) -> int:
        return self.child.pid

    def interruptions(self) -> int:
        self.child.send(b"counts\n")
        return int(json.loads(self.child.line(PATIENCE_S))["interruptions"])


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("targets"), "quiet")


@pytest.fixture
def quiet(program: Path) -> Iterator[Quiet]:
    with child([str(program)]) as started:
        said = json.loads(started.line(PATIENCE_S))
        yield Quiet(started, tuple(said["untouched"]))
    assert started.process.returncode == 0


def read_passively(pid: int) -> dict[str, Any]:
    """What the command says; it must be complete."""
    done = command("arenas", str(pid), "--json", "--exact")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def read_plainly(pid: int, start: int, size: int) -> int:
    """How many bytes process_vm_readv(2) reads there, pages that do not exist yet included."""

    class Span(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))

    buffer = ctypes.create_string_buffer(size)
    local, remote = Span(ctypes.addressof(buffer), size), Span(start, size)
    call = ctypes.CDLL(None, use_errno=True).process_vm_readv
    spans = (ctypes.byref(local), ctypes.c_ulong(1), ctypes.byref(remote), ctypes.c_ulong(1))
    return int(call(pid, *spans, ctypes.c_ulong(0)))


def test_no_wait_is_interrupted(quiet: Quiet) -> None:
    with unharmed(quiet.pid):
        for _ in range(READINGS):
            app.arenas(quiet.pid, app.ArenasOptions(exact=True))
        assert read_passively(quiet.pid)["method"]["pause_ns"] == 0
    assert quiet.interruptions() == 0
    assert command("ask", str(quiet.pid), "--live").returncode == 0
    assert quiet.interruptions() >= 1


def test_no_page_is_mapped(quiet: Quiet) -> None:
    before = pages.everything(quiet.pid)
    answer = read_passively(quiet.pid)
    assert pages.everything(quiet.pid) == before
    assert answer["method"]["consistency"] == "quiescent"
    assert all(arena["residue_bytes"] == 0 for arena in answer["data"]["arenas"])


def test_a_reader_of_absent_pages_would_be_seen(quiet: Quiet) -> None:
    start, size = quiet.untouched
    present, zeros, _ = pages.everything(quiet.pid)
    assert not any(start <= page < start + size for page in present)
    assert read_plainly(quiet.pid, start, size) == size
    present_now, zeros_now, _ = pages.everything(quiet.pid)
    new = set(range(start, start + size, pages.PAGE))
    assert set(present_now) - set(present) == new
    if zeros is not None and zeros_now is not None:
        assert zeros
        assert zeros_now - zeros == new


def test_a_reader_of_everything_would_enlarge_the_page_tables(quiet: Quiet) -> None:
    before = pages.page_table_kib(quiet.pid)
    for start, end in pages.private_mappings(quiet.pid):
        read_plainly(quiet.pid, start, end - start)
    assert pages.page_table_kib(quiet.pid) > before


def test_zero_pages_are_not_counted(quiet: Quiet) -> None:
    """The kernel's page of zeros belongs to nobody: what was only read is no resident memory."""
    zeros = pages.zero_pages(quiet.pid)
    if zeros is None:
        pytest.skip("kernel 6.7 or newer is needed to tell zero pages apart")
    present = {page for page, state in pages.there(quiet.pid).items() if state & pages.PRESENT}
    answer = read_passively(quiet.pid)
    for arena in answer["data"]["arenas"]:
        spans = [(int(heap["start"], 16), int(heap["end"], 16)) for heap in arena["heaps"]]
        inside = [page for page in present - zeros if any(a <= page < b for a, b in spans)]
        assert arena["resident_bytes"] == len(inside) * pages.PAGE
        assert any(a <= page < b for a, b in spans for page in zeros)


def proportional_kib(pid: int) -> int:
    """What a process costs where pages that it shares with others are shared out (proc(5))."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss_Anon: +(\d+) kB$", text, re.MULTILINE)
    assert found
    return int(found[1])


FAMILY = """
import os, sys
held = [bytes([n % 255 + 1]) * 3000 for n in range(8000)]
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_family_goes_on_sharing_what_it_shares_since_fork() -> None:
    """Pinning a page makes the kernel give the target a copy of its own, and process_vm_readv(2)
    pins: the second half of the test."""
    with child([sys.executable, "-c", FAMILY]) as parent:
        assert parent.line(PATIENCE_S) == "ready"
        before = proportional_kib(parent.pid)
        read_passively(parent.pid)
        assert proportional_kib(parent.pid) - before < 256
        [heap] = [
            m
            for m in maps.parse(Path(f"/proc/{parent.pid}/maps").read_bytes())
            if m.path == "[heap]"
        ]
        read_plainly(parent.pid, heap.start, heap.size_bytes)
        assert proportional_kib(parent.pid) - before > 8192


TRACED = "%signal,open,openat,openat2,ptrace,process_vm_readv,process_vm_writev,process_madvise"


def system_calls(*words: str, to: Path) -> list[str]:
    """The lines of strace for the command and all that it starts."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace not installed")
    done = command(*words, wrapper=[strace, "-f", "-qq", "-e", f"trace={TRACED}", "-o", str(to)])
    assert done.returncode == 0, done.stderr
    return to.read_text().splitlines()


def intrusions(calls: list[str]) -> list[str]:
    """The calls that stop, signal or write to another process."""
    harmful = re.compile(
        r"ptrace\(|process_vm_writev\(|process_madvise\(|pidfd_send_signal\(|t?g?kill\(\d.*, SIG"
        r'|open(at2?)?\(.*"/proc/\d+/.*(O_WRONLY|O_RDWR)'
    )
    return [call for call in calls if harmful.search(call)]


def test_nothing_is_stopped_signalled_or_written(quiet: Quiet, tmp_path: Path) -> None:
    calls = system_calls("arenas", str(quiet.pid), "--exact", to=tmp_path / "passive")
    assert any(f'"/proc/{quiet.pid}/mem"' in call for call in calls)
    assert any(f'"/proc/{quiet.pid}/pagemap"' in call for call in calls)
    assert intrusions(calls) == []
    calls = system_calls("arenas", str(quiet.pid), "--snapshot", to=tmp_path / "snapshot")
    assert any("ptrace(" in call for call in intrusions(calls))


def figures(pid: int, use_pagemap_scan: bool) -> ArenasData:
    target = look(pid)
    deadline_ns = time.monotonic_ns() + int(PATIENCE_S * 1e9)
    with ProcessMemory(pid, use_pagemap_scan=use_pagemap_scan) as memory:
        answer = heap.read(memory, target, sort=heap.VALIDATED, deadline_ns=deadline_ns)
    return heap.present(answer, target, rss_bytes=0, smaps=None)


def without_huge(found: Any) -> Any:
    """The same, with every huge_bytes 0: only PAGEMAP_SCAN tells huge pages apart."""
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        fields = {f.name: without_huge(getattr(found, f.name)) for f in dataclasses.fields(found)}
        if "huge_bytes" in fields:
            fields["huge_bytes"] = 0
        return dataclasses.replace(found, **fields)
    return tuple(map(without_huge, found)) if isinstance(found, tuple) else found


@pytest.mark.parametrize("name", ["scattered", "big-mmaps", "pinned-top"])
def test_a_kernel_without_pagemap_scan_tells_the_same(
    name: str, running: Callable[..., RunningFixture]
) -> None:
    pid = running(name).pid
    assert without_huge(figures(pid, False)) == without_huge(figures(pid, True))


def test_the_fallback_maps_no_page_either(quiet: Quiet) -> None:
    before = pages.everything(quiet.pid)
    figures(quiet.pid, use_pagemap_scan=False)
    assert pages.everything(quiet.pid) == before
