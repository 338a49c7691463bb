"""/proc/PID/mountinfo: which file systems a process sees, by device.

Rules: a line that does not have the fields of proc_pid_mountinfo(5) is an error. Source: that man
page; ``show_mountinfo`` in fs/proc_namespace.c.
"""

from __future__ import annotations

from allocscope.errors import BadInput
from allocscope.immutable import immutable


@immutable
class Mount:
    """One mount. ``point`` as the kernel prints it, octal escapes and all."""

    major: int
    minor: int
    point: str
    kind: str

    @property
    def maps_device(self) -> str:
        """The device as /proc/PID/maps prints it."""
        return f"{self.major:02x}:{self.minor:02x}"


def parse(data: bytes) -> tuple[Mount, ...]:
    """All mounts. Raises BadInput."""
    return tuple(_mount(line) for line in data.decode("utf-8", "surrogateescape").splitlines())


def _mount(line: str) -> Mount:
    head, separator, tail = line.partition(" - ")
    fields, kinds = head.split(" "), tail.split(" ")
    try:
        major, minor = map(int, fields[2].split(":"))
        if not separator or not kinds[0]:
            raise ValueError
        return Mount(major, minor, fields[4], kinds[0])
    except (ValueError, IndexError) as error:
        raise BadInput(f"mountinfo: this is not a line of it: {line[:80]!a}") from error
