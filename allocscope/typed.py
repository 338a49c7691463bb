"""The words of ``typing`` for modules that every start of the command loads.

Strategy: a type checker sees typing's own; at run time stand-ins take their places, because loading
typing, which loads ``re`` and ``enum``, costs a tenth of a whole ``arenas --json`` (decision 0018).

Rule: only for annotations, base classes and aliases that nobody looks into at run time. Where
nothing but an annotation needs a word, ``TYPE_CHECKING`` guards typing itself.
"""

from __future__ import annotations

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any as Any
    from typing import Generic as Generic
    from typing import Literal as Literal
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
    from typing import Self as Self
    from typing import TypeVar as TypeVar
    from typing import dataclass_transform as dataclass_transform
else:

    class Generic:
        """As a base class, with or without parameters, it adds nothing."""

        __slots__ = ()

        def __class_getitem__(cls, _parameters: object) -> type:
            return cls

    class Literal(Generic):
        """``Literal["a", "b"]`` is one of these words."""

    Protocol = Generic
    Any = NoReturn = Self = object

    def TypeVar(_name: str, **_bounds: object) -> type:
        return object

    def dataclass_transform(**_words: object):
        return lambda decorator: decorator
