"""A terminal of our own for a command: of a known size, whose keys we press and whose screen we
read.

Rules: every wait is for something on the screen or for the end, with a limit; a screen is what was
written after the cursor went home, without escape sequences, down to the last column of the last
line.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0
HOME = "\x1b[H"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """The master's end, and the command on the other one."""

    def __init__(self, master: int, slave: int, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._master, self._slave = master, slave
        self._written = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def resize(self, columns: int, lines: int) -> None:
        """A new size, of which the kernel tells the command."""
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def text(self) -> str:
        """All that was ever written, with its escape sequences."""
        return self._written.decode(errors="replace")

    @property
    def screen(self) -> list[str]:
        """The lines of the last screen that was written to its end; none before the first."""
        lines, columns, _, _ = struct.unpack(
            "HHHH", fcntl.ioctl(self._slave, termios.TIOCGWINSZ, bytes(8))
        )
        for written in reversed(self.text.split(HOME)):
            shown = ESCAPES.sub("", written).split("\n")
            if len(shown) == lines and len(shown[-1]) >= columns:
                return shown
        return []

    def wait_for(self, condition: Callable[[list[str]], bool]) -> list[str]:
        """Reads until the screen is as wished, and returns it."""
        deadline = time.monotonic() + SECONDS
        while not condition(self.screen):
            assert time.monotonic() < deadline, self.screen
            assert self._read(), f"it ended: {self.screen}"
        return self.screen

    def wait_for_end(self) -> int:
        """Reads what it still writes, and returns its exit status."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.screen
            self._read(0.05)
        while self._read(0.0):
            pass
        return self.process.returncode

    def _read(self, seconds: float = 1.0) -> bool:
        """Takes what was written. False when the command has ended."""
        if select.select([self._master], [], [], seconds)[0]:
            self._written += os.read(self._master, 1 << 16)
            return True
        return seconds > 0 and self.process.poll() is None


@contextlib.contextmanager
def terminal(*words: str, columns: int, lines: int = 40) -> Iterator[Terminal]:
    """``allocscope`` with these words as the leader of a session on a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "allocscope", *words],
        cwd=ROOT,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**environment, "TERM": "xterm-256color"},
        preexec_fn=_take_terminal,
    )
    try:
        yield Terminal(master, slave, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


def _take_terminal() -> None:
    """In the child: a session of its own, with stdin as its terminal."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
