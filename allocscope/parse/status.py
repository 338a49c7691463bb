"""/proc/PID/status: what the kernel says about a process, line by line.

Rule: a line that this kernel does not print (swap off, an older Linux, a process without memory)
is None, or empty, never a guess. Sizes are printed in units of 1024 bytes, whatever "kB" may
suggest.

Source: proc_pid_status(5); fs/proc/array.c.
"""

from __future__ import annotations

from allocscope.errors import BadInput
from allocscope.model.process import ProcessStatus


def parse(data: bytes) -> ProcessStatus:
    """The lines that matter here. Raises BadInput when the text is not that of a status file."""
    lines = dict(_split(line) for line in data.split(b"\n") if line)
    try:
        return ProcessStatus(
            state=lines[b"State"][:1].decode("ascii"),
            tracer_pid=int(lines[b"TracerPid"]),
            uid=int(lines[b"Uid"].split()[1]),
            rss_bytes=_size(lines, b"VmRSS"),
            peak_rss_bytes=_size(lines, b"VmHWM"),
            page_table_bytes=_size(lines, b"VmPTE"),
            swap_bytes=_size(lines, b"VmSwap"),
            hugetlb_bytes=_size(lines, b"HugetlbPages"),
            locked_bytes=_size(lines, b"VmLck"),
            seccomp=int(lines.get(b"Seccomp", b"0")),
            ns_pid=tuple(int(pid) for pid in lines.get(b"NSpid", b"").split()),
            shadow_stack=b"shstk" in lines.get(b"x86_Thread_features", b"").split(),
            tgid=int(lines[b"Tgid"]),
            cpus_allowed=lines.get(b"Cpus_allowed_list", b"").decode("ascii"),
            effective_capabilities=int(lines.get(b"CapEff", b"0"), 16),
            comm=_name(lines.get(b"Name", b"")),
            ppid=int(lines[b"PPid"]) if b"PPid" in lines else None,
        )
    except (KeyError, IndexError, ValueError) as error:
        raise BadInput(f"status: a line is missing or malformed: {error}") from error


def _name(escaped: bytes) -> str:
    """The kernel writes a newline in a name as ``\\n`` and a backslash as two."""
    parts = (part.replace(b"\\n", b"\n") for part in escaped.split(b"\\\\"))
    return b"\\".join(parts).decode("utf-8", "surrogateescape")


def _split(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip()


def _size(lines: dict[bytes, bytes], name: bytes) -> int | None:
    """``123 kB`` in bytes; None where the line is absent."""
    if name not in lines:
        return None
    return int(lines[name].split()[0]) * 1024
