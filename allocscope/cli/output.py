"""Where the answer goes: stdout or a file, and what the terminal can show.

Rules: a reader that closes the pipe early (``| head``) has seen what it wanted, and the exit status
stays that of the answer; what the encoding of stdout cannot show is replaced, never an error.
"""

from __future__ import annotations

import os
import sys

from allocscope.errors import WrongUsage
from allocscope.typed import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

WIDTH_ELSEWHERE = 100
"""Columns where there is no terminal."""


def deliver(answer: str, output: Path | None) -> None:
    """Writes the answer. WrongUsage when ``output``, or else stdout, cannot be written."""
    deliver_bytes(answer.encode(_encoding(output), "replace"), output)


def deliver_bytes(answer: bytes, output: Path | None) -> None:
    """As ``deliver``, for what must arrive byte by byte as it was."""
    if output is not None:
        try:
            output.write_bytes(answer)
        except OSError as error:
            raise WrongUsage(
                f"{output} cannot be written: {error.strerror}", "Give another file."
            ) from error
        return
    deliver_part(answer)


def deliver_part(answer: bytes) -> bool:
    """Writes a part of what goes to stdout. False: nobody reads it any more. WrongUsage when it
    cannot be written for another reason: a full disk."""
    try:
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        _forget_stdout()
        return False
    except OSError as error:
        _forget_stdout()
        raise WrongUsage(
            f"the standard output cannot be written: {error.strerror}",
            "Make room there, or name another file with --output.",
        ) from error
    return True


def _forget_stdout() -> None:
    """Python flushes stdout again at exit, and would complain there."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _encoding(output: Path | None) -> str:
    return "utf-8" if output is not None else sys.stdout.encoding or "utf-8"


def width(output: Path | None) -> int:
    """Columns of the page: those of the terminal (or COLUMNS), 100 elsewhere."""
    if output is not None:
        return WIDTH_ELSEWHERE
    import shutil  # here, because --json needs no width, and this loads much

    return shutil.get_terminal_size((WIDTH_ELSEWHERE, 24)).columns


def colour(no_color: bool, output: Path | None) -> bool:
    """Whether colours are welcome: on a terminal, unless --no-color or NO_COLOR says otherwise."""
    if no_color or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return output is None and sys.stdout.isatty()
