"""What /proc tells about tasks beyond proc.procfs: only those who stop and copy them ask for it.

Rule: a task that ends while it is looked at is None or left out, never an error.

Source: proc(5), proc_pid_stat(5), proc_pid_status(5); CONFIG_PROC_CHILDREN for the children.
"""

from __future__ import annotations

import os
from pathlib import Path

from allocscope.proc import refusal

_EXIT_SIGNAL = 38 - 3  # field 38 of stat, counted from the state


def threads(pid: int) -> list[int]:
    """Thread numbers, ascending. Raises NoSuchProcess."""
    try:
        return sorted(map(int, os.listdir(f"/proc/{pid}/task")))  # noqa: PTH208
    except OSError as error:
        raise refusal.translate(pid, "the threads", error) from error


def children(pid: int) -> list[int]:
    """Children of all threads, zombies included; empty where the kernel has no such list."""
    texts = (read(pid, f"task/{tid}/children") for tid in threads(pid))
    return [int(child) for text in texts if text for child in text.split()]


def exit_signal(pid: int) -> int | None:
    """The signal that the end of this process sends to its parent."""
    text = read(pid, "stat")
    return int(text.rpartition(")")[2].split()[_EXIT_SIGNAL]) if text else None


def system_call(pid: int, tid: int) -> tuple[int, int] | None:
    """The number of the system call that the thread sleeps in, or -1, and its stack pointer.

    None when it runs, or has ended.
    """
    words = (read(pid, f"task/{tid}/syscall") or "running").split()
    return None if words[0] == "running" else (int(words[0]), int(words[-2], 16))


def status_line(pid: int, name: str) -> str | None:
    """The value of one line of /proc/PID/status."""
    for line in (read(pid, "status") or "").split("\n"):
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return None


def read(pid: int, name: str) -> str | None:
    """The text of /proc/PID/name; None when there is none. Raises PermissionRefused."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text("utf-8", "surrogateescape")
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError as error:
        raise refusal.translate(pid, name, error) from error
