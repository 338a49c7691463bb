"""What /proc tells about a process and its threads, as far as acting on it needs to know.

Rules: read only; an OSError becomes NoSuchProcess or PermissionRefused here, once, and the second
one says what would help on this machine.

Source: proc(5), ptrace(2) "Ptrace access mode checking", Documentation/admin-guide/LSM/Yama.rst.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from allocscope.errors import AllocscopeError, NoSuchProcess, PermissionRefused
from allocscope.model.process import Mapping

_CAP_SYS_PTRACE = 19
_YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")


@dataclasses.dataclass(frozen=True, slots=True)
class Stat:
    """Fields of /proc/PID/stat: 3 state, 9 flags, 22 start time (clock ticks after boot), 38 exit
    signal.
    """

    state: str
    flags: int
    start_ticks: int
    exit_signal: int


def stat(pid: int) -> Stat:
    """Raises NoSuchProcess."""
    fields = read(pid, "stat").rpartition(")")[2].split()
    return Stat(fields[0], int(fields[6]), int(fields[19]), int(fields[35]))


def status(pid: int, tid: int | None = None) -> dict[str, str]:
    """The lines of /proc/PID/status, or of one thread's, by name. Raises NoSuchProcess."""
    text = read(pid, "status" if tid is None else f"task/{tid}/status")
    return {
        name: value.strip()
        for name, _, value in (line.partition(":") for line in text.splitlines())
    }


def threads(pid: int) -> list[int]:
    """Raises NoSuchProcess."""
    try:
        return sorted(int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir())
    except OSError as error:
        raise translated(pid, error) from error


def mappings(pid: int) -> list[Mapping]:
    """The memory map, ascending. Raises NoSuchProcess, PermissionRefused."""
    return [_mapping(line) for line in read(pid, "maps").splitlines()]


def _mapping(line: str) -> Mapping:
    span, perms, offset, device, inode, *path = line.split(None, 5)
    start, _, end = span.partition("-")
    return Mapping(
        start=int(start, 16),
        end=int(end, 16),
        perms=perms,
        offset=int(offset, 16),
        device=device,
        inode=int(inode),
        path=path[0] if path else "",
    )


def read(pid: int, name: str) -> str:
    """The text of /proc/PID/name. Raises NoSuchProcess, PermissionRefused."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="surrogateescape")
    except OSError as error:
        raise translated(pid, error) from error


def translated(pid: int, error: OSError) -> AllocscopeError:
    """What an error of a /proc file or of ptrace means to the user; to be raised from it."""
    if isinstance(error, PermissionError):
        return PermissionRefused(
            f"not allowed to examine and stop process {pid}", _permission_cure(pid)
        )
    return NoSuchProcess(f"process {pid} does not exist, or has ended meanwhile")


def _permission_cure(pid: int) -> str:
    scope = _YAMA.read_text().strip() if _YAMA.exists() else "0"
    if scope == "3":
        return "kernel.yama.ptrace_scope is 3: nobody may trace until the machine is restarted"
    capable = int(status(os.getpid())["CapEff"], 16) >> _CAP_SYS_PTRACE & 1
    if capable:
        return (
            "CAP_SYS_PTRACE is there, so a security module refuses, or the target lives in a user "
            "namespace that is not below ours: run allocscope on the host, as root"
        )
    cure = "run as root, or give CAP_SYS_PTRACE (in a container: --cap-add SYS_PTRACE)"
    if scope in ("1", "2") and Path(f"/proc/{pid}").exists():
        cure += f"; kernel.yama.ptrace_scope is {scope}, 0 would allow it to the same user"
    return cure
