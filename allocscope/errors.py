"""One root error. Each kind has the exit code of the contract and says what to do next.

Rules: a message states what happened in the user's words; ``hint`` says what to do about it.
OSError is translated once, in the room that made the system call, and chained.
"""

from __future__ import annotations


class AllocscopeError(Exception):
    """Root of every error that allocscope raises on purpose.

    ``message`` is one sentence; ``hint`` (may be empty) names the cure. ``exit_code`` is the
    command's exit status.
    """

    exit_code = 10

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class WrongUsage(AllocscopeError):
    """The options or targets do not fit together (exit 2)."""

    exit_code = 2


class NoSuchProcess(AllocscopeError):
    """The target does not exist, or went away meanwhile (exit 3)."""

    exit_code = 3


class PermissionRefused(AllocscopeError):
    """The kernel refused; the message names the capability or setting (exit 4)."""

    exit_code = 4


class NoGlibcHeap(AllocscopeError):
    """No glibc malloc state that can be read: musl, static allocator, unknown layout (exit 5)."""

    exit_code = 5


class UnknownLayout(NoGlibcHeap):
    """There is a glibc, but none of the known malloc layouts fits its memory: glibc itself can be
    asked."""


class Unsafe(AllocscopeError):
    """A call or snapshot was refused or timed out; the target was left as it was (exit 7)."""

    exit_code = 7


class MissingPart(AllocscopeError):
    """Something this needs is not here: gdb, a kernel feature, the native helper (exit 8)."""

    exit_code = 8


class BadInput(AllocscopeError):
    """An input (file, XML, text) cannot be read as what it claims to be (exit 9)."""

    exit_code = 9


class InternalError(AllocscopeError):
    """A defect of allocscope (exit 10)."""

    exit_code = 10


EXIT_PARTIAL = 6
"""Exit status of an answer that is printed, but incomplete or not adding up."""


class MemoryGap(AllocscopeError):
    """A page of the target is not there (never touched, released, swapped out) and was left
    alone."""
