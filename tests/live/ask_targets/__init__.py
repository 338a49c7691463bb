"""Starts target.c in one of its states, and tells afterwards whether it came to harm."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("target.c")
FLAGS = ("-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-pthread")
PATIENCE_S = 20.0


@dataclasses.dataclass
class Target:
    """A running target.c. ``symbols``: the addresses that the program itself sees."""

    process: subprocess.Popen[bytes]
    symbols: dict[str, int]
    complaints: Any
    over: bool = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def finish(self) -> dict[str, int]:
        """Lets it leave its state and end: what it says of itself. Fails unless it wrote exactly
        its two lines, nothing to stderr, and ended unharmed by itself."""
        assert self.process.stdin is not None
        self.over = True
        self.process.stdin.close()
        last = json.loads(read_line(self.process))
        assert last["done"] and not last["harmed"]
        assert self.process.wait(PATIENCE_S) == 0
        assert self.process.stdout is not None
        assert self.process.stdout.read() == b""
        self.complaints.seek(0)
        assert self.complaints.read() == b""
        return {name: int(value) for name, value in last.items()}


def build(directory: Path, *flags: str) -> Path:
    """Compiles target.c with further flags."""
    program = directory / "target"
    command = [os.environ.get("CC", "cc"), *FLAGS, *flags, str(SOURCE), "-o", str(program)]
    subprocess.run(command, check=True)
    return program


@contextlib.contextmanager
def started(program: Path, *arguments: str, **environment: str) -> Iterator[Target]:
    """The target once it is in its state; killed at the end of the block if it is still there."""
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env={**os.environ, **environment},
        )
        try:
            ready = json.loads(read_line(process))
            yield Target(process, ready["symbols"], complaints)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def read_line(process: subprocess.Popen[bytes]) -> bytes:
    """The next line of its stdout, within ``PATIENCE_S``; read byte by byte, so that what follows
    stays in the pipe."""
    assert process.stdout is not None
    descriptor, line, end = process.stdout.fileno(), b"", time.monotonic() + PATIENCE_S
    while not line.endswith(b"\n"):
        readable = select.select([descriptor], [], [], max(end - time.monotonic(), 0))[0]
        assert readable, f"no line within {PATIENCE_S} s, only {line!r}"
        byte = os.read(descriptor, 1)
        assert byte, f"ended after {line!r}"
        line += byte
    return line
