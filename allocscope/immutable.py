"""The decorator of the house's value classes: ``@immutable``, where the standard library would say
``@dataclasses.dataclass(frozen=True, slots=True)``.

Strategy: the standard library's writes the methods of every class as source text and compiles it at
each start, half a millisecond for a class, and is itself the costliest thing to load of all that a
start loads. Here all classes share their methods. The standard library's ``fields``, ``replace``
and ``asdict`` work on these classes too: what they need to know is made when they ask.

Rules: each field is given when an object is made, or has a plain default. This module imports
nothing that takes long.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter

from allocscope.typed import Any, NoReturn, TypeVar, dataclass_transform

Class = TypeVar("Class", bound=type)
Value = TypeVar("Value")
Method = Any


class _Missing:
    """Stands where a field has no default."""


MISSING = _Missing()
NOTHING: Mapping[str, Any] = {}


class Field:
    """What is said of a field beside its name and type, as in dataclasses."""

    __slots__ = ("compare", "default", "metadata", "repr")

    def __init__(
        self,
        default: Any = MISSING,
        metadata: Mapping[str, Any] = NOTHING,
        compare: bool = True,
        repr: bool = True,
    ) -> None:
        self.default, self.metadata, self.compare, self.repr = default, metadata, compare, repr


def field(
    *,
    default: Any = MISSING,
    metadata: Mapping[str, Any] = NOTHING,
    compare: bool = True,
    repr: bool = True,
) -> Any:
    """Says of a field what a bare annotation cannot."""
    return Field(default, metadata, compare, repr)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(cls: Class) -> Class:
    """The class with its annotated names as slots, set once when an object is made. Its objects
    compare, hash and print themselves as those of a frozen dataclass do."""
    own = {name: _field_of(cls, name) for name in cls.__annotations__}
    fields: dict[str, Field] = {**getattr(cls, "_fields", {}), **own}
    names = list(fields)
    compared = attrgetter(*(name for name in names if fields[name].compare))
    body = {k: v for k, v in vars(cls).items() if k not in {*own, "__dict__", "__weakref__"}}
    made: Any = type(cls)(
        cls.__name__,
        cls.__bases__,
        {
            **body,
            "__slots__": tuple(own),
            "__match_args__": tuple(names),
            "__dataclass_fields__": _ForDataclasses(),
            "_fields": fields,
            "__repr__": _repr([name for name in names if fields[name].repr]),
            "__eq__": _eq(compared),
            "__hash__": _hash(compared),
            "__reduce__": _reduce(names),
            "__setattr__": _refuse,
            "__delattr__": _refuse,
        },
    )
    made.__qualname__ = cls.__qualname__
    made.__init__ = _init(made, fields)
    return made  # type: ignore[no-any-return]


def fields_of(made: type) -> dict[str, Field]:
    """The fields of such a class, or of a standard dataclass, in order. TypeError for any other."""
    kept = vars(made)
    fields: dict[str, Field] | None = kept.get("_fields", kept.get("__dataclass_fields__"))
    if fields is None:
        raise TypeError(f"{made.__name__} is neither @immutable nor a dataclass")
    return fields


def names_of(made: type) -> tuple[str, ...]:
    """The names of such a class's fields, in order."""
    return tuple(fields_of(made))


def replace(value: Value, **changes: Any) -> Value:
    """An object like ``value`` but for ``changes``."""
    kept = {name: getattr(value, name) for name in fields_of(type(value))}
    return type(value)(**{**kept, **changes})


def _field_of(cls: type, name: str) -> Field:
    said = vars(cls).get(name, MISSING)
    if hasattr(said, "default_factory"):
        raise TypeError(f"{cls.__name__}.{name}: use allocscope.immutable.field, not dataclasses'")
    return said if isinstance(said, Field) else Field(said)


class _ForDataclasses:
    """What the standard library's functions look for in a class, made by itself when they do."""

    def __get__(self, value: object, owner: Any) -> dict[str, Any]:
        import dataclasses

        rows = []
        for name, said in fields_of(owner).items():
            default = dataclasses.MISSING if said.default is MISSING else said.default
            told = dataclasses.field(
                default=default, metadata=said.metadata, compare=said.compare, repr=said.repr
            )
            rows.append((name, owner.__annotations__.get(name, "Any"), told))
        twin: Any = dataclasses.make_dataclass(
            owner.__name__, rows, init=False, repr=False, eq=False
        )
        found: dict[str, Any] = twin.__dataclass_fields__
        owner.__dataclass_fields__ = found
        return found


def _init(made: Any, fields: dict[str, Field]) -> Method:
    names = tuple(fields)
    defaults = {name: said.default for name, said in fields.items() if said.default is not MISSING}
    setters = [getattr(made, name).__set__ for name in names]

    def in_order(values: tuple[Any, ...], named: dict[str, Any]) -> list[Any]:
        given = {**defaults, **dict(zip(names, values, strict=False)), **named}
        twice = named.keys() & names[: len(values)]
        if len(values) > len(names) or twice or given.keys() != fields.keys():
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
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"{type(self).__name__}.{name} cannot be changed")
