"""Value classes: like frozen, slotted dataclasses in all that their users see."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any, Generic, TypeVar

import pytest

from allocscope.immutable import field, fields_of, immutable, names_of, replace

T = TypeVar("T")
HEX = {"hex": True}


@immutable
class Point:
    """Ours."""

    x: int = field(metadata=HEX)
    y: int
    label: str = "none"
    note: str = field(default="", compare=False, repr=False)

    @property
    def sum(self) -> int:
        return self.x + self.y


@dataclasses.dataclass(frozen=True, slots=True)
class Twin:
    """The standard library's."""

    x: int = dataclasses.field(metadata=HEX)
    y: int
    label: str = "none"
    note: str = dataclasses.field(default="", compare=False, repr=False)


@immutable
class Box(Generic[T]):
    """A class with a parameter."""

    content: T


@immutable
class Inherited(Point):
    """One field more."""

    z: int = 0


ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1, 2), {}),
    ((1, 2, "here"), {}),
    ((1, 2, "here", "why"), {}),
    ((1,), {"y": 2}),
    ((), {"y": 2, "x": 1}),
    ((), {"note": "why", "label": "here", "y": 2, "x": 1}),
    ((1, 2), {"note": "why"}),
]
WRONG: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((1,), {}),
    ((1, 2, "here", "why", 5), {}),
    ((1, 2), {"x": 1}),
    ((1, 2, "here", "why"), {"x": 1}),
    ((1, 2), {"z": 3}),
    ((), {"x": 1, "z": 3}),
]


@pytest.mark.parametrize(("values", "named"), ARGUMENTS)
def test_it_is_made_and_shown_as_its_twin(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    point, twin = Point(*values, **named), Twin(*values, **named)
    assert dataclasses.asdict(point) == dataclasses.asdict(twin)
    assert repr(point) == repr(twin).replace("Twin", "Point")
    assert point.sum == 3


@pytest.mark.parametrize(("values", "named"), WRONG)
def test_what_its_twin_refuses_it_refuses(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Twin(*values, **named)
    with pytest.raises(TypeError, match="Point takes x, y, label, note, each once"):
        Point(*values, **named)


def test_equal_where_all_that_is_compared_is_equal() -> None:
    assert Point(1, 2) == Point(1, 2, note="another")
    assert hash(Point(1, 2)) == hash(Point(1, 2, note="another"))
    assert len({Point(1, 2), Point(2, 1), Point(1, 2)}) == 2
    assert Point(1, 2) != Point(1, 3)
    assert Point(1, 2) != Twin(1, 2)
    assert Point(1, 2) != Inherited(1, 2)
    assert Point(1, 2) != (1, 2, "none")


@pytest.mark.parametrize("name", ["x", "note", "sum", "unknown"])
def test_nothing_of_it_changes(name: str) -> None:
    point = Point(1, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(point, name, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(point, name)
    assert not hasattr(point, "__dict__")
    assert point == Point(1, 2)


def test_the_standard_library_knows_its_fields() -> None:
    assert names_of(Point) == ("x", "y", "label", "note")
    assert names_of(Inherited) == ("x", "y", "label", "note", "z")
    assert [f.metadata.get("hex") for f in dataclasses.fields(Point)] == [True] + 3 * [None]
    assert dataclasses.is_dataclass(Point)
    assert dataclasses.replace(Point(1, 2, note="why"), y=5) == Point(1, 5)
    assert dataclasses.replace(Point(1, 2, note="why"), y=5).note == "why"
    match Point(1, 2):
        case Point(x, y):
            assert (x, y) == (1, 2)


def test_copies_are_equal() -> None:
    for original in (Point(1, 2, "here", "why"), Box([1, 2]), Inherited(1, 2, z=3)):
        for made in (
            copy.copy(original),
            copy.deepcopy(original),
            pickle.loads(pickle.dumps(original)),
        ):
            assert made == original
            assert type(made) is type(original)


def test_ours_for_fields_and_changes() -> None:
    assert [f.metadata.get("hex") for f in fields_of(Point).values()] == [True, None, None, None]
    assert list(fields_of(Twin)) == list(names_of(Point))
    assert replace(Point(1, 2, note="why"), y=5).note == "why"
    assert replace(Inherited(1, 2), z=7) == Inherited(1, 2, z=7)
    with pytest.raises(TypeError, match="takes"):
        replace(Point(1, 2), z=7)
    with pytest.raises(TypeError, match="int is neither"):
        fields_of(int)


def test_the_standard_librarys_field_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Bad\.a: use"):
        immutable(type("Bad", (), {"__annotations__": {"a": "int"}, "a": dataclasses.field()}))
