"""What is opened and must be closed: ``with`` does it, however the block ends."""

from __future__ import annotations

import abc
from types import TracebackType

from allocscope.typed import Self


class Closing(abc.ABC):
    """A base for classes that have ``close``: at the end of a ``with`` block it is called, and
    errors go on."""

    __slots__ = ()

    @abc.abstractmethod
    def close(self) -> None:
        """Gives back what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
