"""proc/select: processes by name and by cgroup, among real ones."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocscope.errors import NoSuchProcess, WrongUsage
from allocscope.proc import select


@pytest.fixture
def cat(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a name that nobody else has; it ends with its stdin."""
    program = tmp_path / "selectme-cat"
    program.symlink_to("/bin/cat")
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(b"ready\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"ready\n"
        yield child
        child.stdin.close()


def test_by_name_as_a_regular_expression(cat: subprocess.Popen[bytes]) -> None:
    assert select.pids(name="^selectme-c.t$") == [cat.pid]
    assert select.comm(cat.pid) == "selectme-cat"


def test_by_the_executables_name(cat: subprocess.Popen[bytes]) -> None:
    assert cat.pid in select.pids(name="^cat$")


def test_neither_itself_nor_zombies_nor_kernel_threads() -> None:
    child = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    found = select.pids(name="")
    assert os.getpid() not in found
    assert child.pid not in found
    assert 2 not in found or not Path("/proc/2/exe").exists()
    child.wait()
    assert select.comm(child.pid) == ""


def test_by_cgroup_with_those_below(cat: subprocess.Popen[bytes], tmp_path: Path) -> None:
    below = tmp_path / "group" / "below"
    below.mkdir(parents=True)
    (below.parent / "cgroup.procs").write_text("0\n")
    (below / "cgroup.procs").write_text(f"{cat.pid}\n{2**22 + 1}\n")
    assert select.pids(cgroup=str(below.parent)) == [cat.pid]
    assert select.pids(cgroup=str(below.parent), name="selectme") == [cat.pid]
    with pytest.raises(NoSuchProcess, match="'other' and is in the cgroup"):
        select.pids(cgroup=str(below.parent), name="other")


def test_the_cgroup_that_the_kernel_names(cat: subprocess.Popen[bytes]) -> None:
    paths = [
        line.split(":", 2)[2] for line in Path(f"/proc/{cat.pid}/cgroup").read_text().splitlines()
    ]
    assert paths
    mounted = [path for path in paths if "/.." not in path]
    assert any(cat.pid in select.pids(cgroup=path) for path in mounted)


def test_what_is_not_there() -> None:
    with pytest.raises(NoSuchProcess, match="no process matches the name"):
        select.pids(name="^no such name$")
    with pytest.raises(NoSuchProcess, match="there is no cgroup"):
        select.pids(cgroup="/nowhere")
    with pytest.raises(WrongUsage, match="not a regular expression"):
        select.pids(name="*")
