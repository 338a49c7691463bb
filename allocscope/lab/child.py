"""A process that an experiment starts, speaks with in lines, and always takes away again.

Rules: every wait has an end; the process is reaped whatever happens inside the block; what it
wrote to stderr is kept, so that a failure can be told in its own words.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

from allocscope.errors import MissingPart

END_SECONDS = 20.0
LINE_BYTES_MAX = 1 << 16
COMPLAINT_BYTES_MAX = 4000


class Child:
    """A running process with pipes on stdin and stdout. Made by `child`, not by hand."""

    def __init__(
        self, process: subprocess.Popen[bytes], command: Sequence[str], complaints: IO[bytes]
    ) -> None:
        self.process = process
        self._command = command
        self._complaints = complaints
        self._unread = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self, seconds: float) -> str:
        """The next line of its stdout, without the newline.

        Raises MissingPart, with what it wrote to stderr, where none comes within ``seconds``."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread and len(self._unread) < LINE_BYTES_MAX:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._failure(f"said nothing for {seconds:g} s")
                piece = os.read(self.process.stdout.fileno(), LINE_BYTES_MAX)
                if not piece:
                    raise self._failure("ended before it was ready")
                self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode(errors="replace")

    def send(self, text: bytes) -> None:
        """Writes to its stdin. Raises MissingPart where it reads no more."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(text)
            self.process.stdin.flush()
        except OSError as error:
            raise self._failure("ended") from error

    def _failure(self, what: str) -> MissingPart:
        self._complaints.seek(0)
        said = self._complaints.read(COMPLAINT_BYTES_MAX).decode(errors="replace").strip()
        return MissingPart(
            f"{self._command[0]} {what}" + (f": {said}" if said else ""),
            f"Try it by hand: {' '.join(self._command)}",
        )


@contextlib.contextmanager
def child(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    ends_at_eof: bool = True,
) -> Iterator[Child]:
    """Starts ``command`` and ends it with the block: by EOF on its stdin if ``ends_at_eof``, by
    SIGTERM if not, by SIGKILL where that is not heeded.

    ``environment`` is added to this process's own. Raises MissingPart where the command cannot
    be started."""
    with tempfile.TemporaryFile() as complaints:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env={**os.environ, **(environment or {})},
            )
        except OSError as error:
            raise MissingPart(
                f"cannot start {command[0]}: {error.strerror}", "Is it installed?"
            ) from error
        try:
            yield Child(process, command, complaints)
        finally:
            _end(process, ends_at_eof)


def _end(process: subprocess.Popen[bytes], ends_at_eof: bool) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    if not ends_at_eof:
        process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
