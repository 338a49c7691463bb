"""Value classes as plain JSON values, and back by the types of their fields.

Rules: reading trusts nothing: whatever is missing, of another type or out of range is BadInput, and
says where. A field with a default may be missing, names that are not known are passed over, so that
a later version may add some. Numbers are never negative.
"""

from __future__ import annotations

import contextlib
import functools
import types
import typing
from typing import Any, TypeVar

from allocscope.errors import BadInput
from allocscope.immutable import MISSING, fields_of

T = TypeVar("T")
_WORD_END = 1 << 64
_MOST = 1e12


def dump(value: Any) -> Any:
    """Objects as dicts, tuples as lists; None, numbers, text and truth as they are."""
    if isinstance(value, tuple):
        return [dump(one) for one in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return {name: dump(getattr(value, name)) for name in fields_of(type(value))}


def load(kind: type[T], value: object, where: str) -> T:
    """An object of the value class ``kind``. ``where`` names the value in errors. BadInput."""
    found: T = _object(kind, value, where)
    return found


def _loaded(kind: Any, value: object, where: str) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _first_that_fits(inner, value, where)
    if origin is tuple:
        assert inner[1:] == (...,)
        if type(value) is not list:
            raise _wrong(where)
        return tuple(_loaded(inner[0], one, where) for one in value)
    if origin is typing.Literal:
        return value if value in inner else _refuse(where)
    if kind in (str, bool):
        return value if type(value) is kind else _refuse(where)
    if kind is int:
        return value if type(value) is int and 0 <= value < _WORD_END else _refuse(where)
    if kind is float:
        sound = type(value) in (int, float) and 0 <= value < _MOST  # type: ignore[operator]
        return float(value) if sound else _refuse(where)  # type: ignore[arg-type]
    return _object(kind, value, where)


def _first_that_fits(kinds: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not types.NoneType]
    for kind in others:
        with contextlib.suppress(BadInput):
            return _loaded(kind, value, where)
    return _loaded(last, value, where)


def _object(kind: Any, value: object, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where)
    given = {}
    for name, said in fields_of(kind).items():
        if name in value:
            given[name] = _loaded(_types(kind)[name], value[name], f"{where}.{name}")
        elif said.default is MISSING:
            raise BadInput(f"the facts of this recording lack {where}.{name}")
    return kind(**given)


@functools.cache
def _types(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _refuse(where: str) -> typing.NoReturn:
    raise _wrong(where)


def _wrong(where: str) -> BadInput:
    return BadInput(f"the facts of this recording have an impossible {where}")
