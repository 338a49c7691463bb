"""Go's heap beside glibc's: in a program that calls C, and in a library of Go in a program that is
not Go's. The truth is what the Go code holds, and where its symbols say that the table is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from live.targets import HERE, running
from live.test_explain import assert_the_ledger_closes, explained, resident

from allocscope.app.map import map_process

MIB = 1 << 20
HELD_BYTES = 48 * MIB
IN_PYTHON = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).Hold(); print('ready'); sys.stdin.read()"


def built(directory: Path, *flags: str) -> Path:
    go = shutil.which("go")
    if go is None:
        pytest.skip("go not installed")
    shutil.copy(HERE / "holds.go", directory / "main.go")
    (directory / "go.mod").write_text("module holds\n")
    command = [go, "build", *flags, "-o", "holds", "."]
    subprocess.run(command, cwd=directory, check=True, timeout=600)
    return directory / "holds"


def symbol(binary: Path, name: str) -> range:
    """Where it lies in the file's own addresses."""
    command = ["go", "tool", "nm", "-size", str(binary)]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    [line] = [line for line in listed.splitlines() if line.endswith(f" {name}")]
    start, size = line.split()[:2]
    return range(int(start, 16), int(start, 16) + int(size))


@pytest.mark.parametrize("inside", ["program", "library"])
def test_gos_heap_is_explained(tmp_path: Path, inside: str) -> None:
    if inside == "program":
        binary = built(tmp_path)
        command: list[str | Path] = [binary]
    else:
        binary = built(tmp_path, "-buildmode=c-shared")
        command = [sys.executable, "-u", "-c", IN_PYTHON, binary]
    with running(command) as target:
        data = explained(target.pid).data
        assert_the_ledger_closes(target.pid, data)
        shown = map_process(target.pid, raw=False, deadline_s=30)
        rows = [row for row in shown.data.rows if row.owner == "Go heap"]
        maps = Path(f"/proc/{target.pid}/maps").read_text().splitlines()
    there = sum(row.sizes.resident_bytes for row in rows)
    assert HELD_BYTES <= there < 1.3 * HELD_BYTES
    assert resident(data, "runtime-heap") >= there
    assert resident(data, "unexplained") < 0.03 * data.rss_bytes
    assert data.causes[0].key == "runtime-heap"
    assert "GOMEMLIMIT" in " ".join(r.action for r in data.causes[0].remedies)
    [root] = {
        int(found[1], 16)
        for row in rows
        if (found := re.search(r"arenas at (0x[0-9a-f]+)", row.evidence))
    }
    base = min(int(line.split("-")[0], 16) for line in maps if line.endswith(str(binary)))
    place = root if inside == "program" else root - base
    assert place in symbol(binary, "runtime.mheap_")
