"""/proc/PID/stat and /proc/PID/task/TID/stat: one line about a task.

Rule: the name in parentheses is the target's own choice and may hold spaces, parentheses and
newlines, so the line is cut at its first ``(`` and at its last ``)``.

Source: proc_pid_stat(5); ``do_task_stat`` in fs/proc/array.c.
"""

from __future__ import annotations

from allocscope.errors import BadInput
from allocscope.model.process import TaskStat

# Positions counted from the state, which is field 3 of proc_pid_stat(5).
_STATE, _PPID, _FLAGS, _MINOR_FAULTS, _THREADS, _START = 0, 4 - 3, 9 - 3, 10 - 3, 20 - 3, 22 - 3


def parse(data: bytes) -> TaskStat:
    """One stat line. Raises BadInput when it is not one."""
    head, opened, rest = data.partition(b"(")
    comm, closed, tail = rest.rpartition(b")")
    fields = tail.split()
    try:
        if not opened or not closed or len(fields) <= _START:
            raise ValueError("too few fields")
        return TaskStat(
            pid=int(head),
            comm=comm.decode("utf-8", "surrogateescape"),
            state=fields[_STATE].decode("ascii"),
            ppid=int(fields[_PPID]),
            flags=int(fields[_FLAGS]),
            minor_fault_count=int(fields[_MINOR_FAULTS]),
            thread_count=int(fields[_THREADS]),
            start_ticks=int(fields[_START]),
        )
    except ValueError as error:
        raise BadInput(f"stat: this is not a line of it: {data[:80]!r}") from error
