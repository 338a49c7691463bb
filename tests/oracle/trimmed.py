"""What a trim really did: the system calls that the process made for it, as strace saw them, and
the fall of each arena's present pages, as the kernel tells them in /proc/PID/pagemap.

The arenas' extents come from the oracle's own walk. The process must be quiescent but for the trim.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from oracle import OracleError, locate, trim, walk
from oracle.layout import layout_for
from oracle.memory import Memory

_ADVISED = re.compile(r"madvise\((0x[0-9a-f]+), (\d+), MADV_DONTNEED\)\s+= (.*)$", re.MULTILINE)
_BREAK = re.compile(r"brk\((0x[0-9a-f]+)\)\s+= 0x", re.MULTILINE)
Range = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Trimmed:
    """``fell_bytes``: by arena, in the ring's order. ``advised``: what madvise was asked to give
    back, in the order of the calls; ``refused``: those of them that failed. ``lowered_count``:
    calls of brk with an address; the one at the end of a trim lowers it."""

    fell_bytes: tuple[int, ...]
    advised: tuple[Range, ...]
    refused: tuple[Range, ...]
    lowered_count: int


def sums(pid: int) -> list[walk.Sums]:
    """The arenas as the oracle reads them."""
    with Memory(pid) as memory:
        layout = layout_for(locate.glibc_minor(pid))
        return walk.walk(memory, layout, *locate.from_bytes(memory, layout))


def watch(pid: int, action: Callable[[], object]) -> Trimmed:
    """Looks at process ``pid`` while ``action`` makes it trim itself."""
    extents = [trim.extent(one) for one in sums(pid)]
    before = [trim.resident_bytes(pid, extent) for extent in extents]
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory) / "calls"
        with _traced(pid, log):
            action()
        text = log.read_text()
    after = [trim.resident_bytes(pid, extent) for extent in extents]
    calls = [(int(at, 16), int(size), result) for at, size, result in _ADVISED.findall(text)]
    return Trimmed(
        fell_bytes=tuple(had - has for had, has in zip(before, after, strict=True)),
        advised=tuple((at, at + size) for at, size, _ in calls),
        refused=tuple((at, at + size) for at, size, result in calls if result != "0"),
        lowered_count=len(_BREAK.findall(text)),
    )


@contextlib.contextmanager
def _traced(pid: int, log: Path) -> Iterator[None]:
    """strace writes the process's calls that concern memory to ``log`` meanwhile."""
    command = ["strace", "-f", "-o", str(log), "-e", "trace=madvise,brk", "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        said = strace.stderr.readline()
        if "attached" not in said:
            raise OracleError(f"strace cannot watch {pid}: {said}")
        try:
            yield
        finally:
            strace.send_signal(signal.SIGINT)
            strace.communicate()
