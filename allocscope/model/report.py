"""The envelope around every answer: who was looked at, how, and what to keep in mind."""

from __future__ import annotations

from allocscope.immutable import immutable
from allocscope.model.libc import Allocator, Libc
from allocscope.model.process import Process
from allocscope.typed import Generic, TypeVar

D = TypeVar("D")


@immutable
class Caveat:
    """Something the reader must know; ``code`` is stable, ``partial`` makes the command exit with
    6."""

    code: str
    message: str
    partial: bool = False


@immutable
class Method:
    """How the answer was obtained. ``source``: passive, snapshot, live, core, recording.
    ``consistency``: frozen, quiescent, validated, partial. ``pause_ns``: how long the target stood
    still, measured."""

    source: str
    pause_ns: int
    elapsed_ns: int
    consistency: str


@immutable
class Report(Generic[D]):
    """One answer about one process. ``captured_at``: when it was as told here, in seconds since
    1970, where that is not now."""

    process: Process
    libc: Libc | None
    allocator: Allocator | None
    method: Method
    data: D
    caveats: tuple[Caveat, ...]
    captured_at: float | None = None

    @property
    def partial(self) -> bool:
        return any(caveat.partial for caveat in self.caveats)
