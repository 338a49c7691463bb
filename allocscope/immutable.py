"""The decorator of the house's value classes: ``@immutable``, where the standard library would say
``@dataclasses.dataclass(frozen=True, slots=True)``.

Strategy: dataclasses still finds the fields and makes the slots, so its ``fields`` and ``replace``
work as ever. Only the methods differ: it would write them out as source text for every class and
compile that at each start, half a millisecond for a class; here all classes share theirs.

Rules: each field is given when an object is made, or has a plain default; no ``default_factory``,
no ``init=False``, no ``__post_init__``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, FrozenInstanceError
from operator import attrgetter
from typing import Any, NoReturn, TypeVar, dataclass_transform

Class = TypeVar("Class", bound=type)
Method = Any


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def immutable(cls: Class) -> Class:
    """The class with its annotated names as slots, set once when an object is made.

    Its objects compare, hash and print themselves as those of a frozen dataclass do. TypeError for
    a class that breaks the rules of this module."""
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True)(cls)
    fields = dataclasses.fields(made)
    if any(not field.init or field.default_factory is not MISSING for field in fields):
        raise TypeError(f"{cls.__name__}: a field without init, or with a default_factory")
    compared = attrgetter(*(field.name for field in fields if field.compare))
    made.__init__ = _init(made, fields)
    made.__repr__ = _repr([field.name for field in fields if field.repr])
    made.__eq__ = _eq(compared)
    made.__hash__ = _hash(compared)
    made.__reduce__ = _reduce([field.name for field in fields])
    made.__setattr__ = _refuse
    made.__delattr__ = _refuse
    return made  # type: ignore[no-any-return]


def names_of(made: type) -> tuple[str, ...]:
    """The names of such a class's fields, in order."""
    return tuple(field.name for field in dataclasses.fields(made))


def _init(made: Any, fields: tuple[dataclasses.Field[Any], ...]) -> Method:
    names = tuple(field.name for field in fields)
    defaults = {field.name: field.default for field in fields if field.default is not MISSING}
    setters = [getattr(made, name).__set__ for name in names]

    def in_order(values: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
        given = {**defaults, **dict(zip(names, values, strict=False)), **named}
        twice = named.keys() & names[: len(values)]
        if len(values) > len(names) or twice or given.keys() != set(names):
            raise TypeError(f"{made.__name__} takes {', '.join(names)}, each once")
        return [given[name] for name in names]

    def __init__(self: object, /, *values: Any, **named: Any) -> None:
        all_values = in_order(values, named) if named or len(values) != len(names) else values
        for setter, value in zip(setters, all_values, strict=True):
            setter(self, value)

    return __init__


def _repr(names: list[str]) -> Method:
    def __repr__(self: object) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__qualname__}({shown})"

    return __repr__


def _eq(compared: attrgetter[Any]) -> Method:
    def __eq__(self: object, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return bool(compared(self) == compared(other))

    return __eq__


def _hash(compared: attrgetter[Any]) -> Method:
    def __hash__(self: object) -> int:
        return hash(compared(self))

    return __hash__


def _reduce(names: list[str]) -> Method:
    """What copy and pickle ask: how to make an equal object."""

    def __reduce__(self: object) -> tuple[type, tuple[Any, ...]]:
        return type(self), tuple(getattr(self, name) for name in names)

    return __reduce__


def _refuse(self: object, name: str, *_value: object) -> NoReturn:
    raise FrozenInstanceError(f"{type(self).__name__}.{name} cannot be changed")
