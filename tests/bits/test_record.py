"""Records: what they take, that they cannot change, what makes two equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from tandemu.bits import Record, replace


def double(value: int) -> int:
    return 2 * value


class Point(Record):
    axes: ClassVar[int] = 2
    x: int
    y: int = 0


class Named(Point):
    name: str = "P"
    change: Callable[[int], int] = double

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a name of no letters")


def test_a_subclass_has_the_parts_of_its_bases_first() -> None:
    assert Named(1, 2, "Q").parts() == {"x": 1, "y": 2, "name": "Q", "change": double}
    assert Named(1).axes == 2


def test_a_default_that_is_a_function_stays_one() -> None:
    assert Named(1).change(4) == 8


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="no letters"):
        replace(Named(1), name="")


@pytest.mark.parametrize(
    ("values", "named", "says"),
    [
        ((), {}, "Point lacks x: it takes x, y"),
        ((1, 2, 3), {}, "Point is given 3 values: it takes x, y"),
        ((1,), {"z": 1}, "Point has no z: it takes x, y"),
        ((1,), {"x": 1}, "Point is given twice x: it takes x, y"),
        ((), {"axes": 3, "x": 1}, "Point has no axes: it takes x, y"),
    ],
)
def test_values_that_do_not_fit_are_told(
    values: tuple[int, ...], named: dict[str, Any], says: str
) -> None:
    with pytest.raises(TypeError, match=says):
        Point(*values, **named)


def test_a_record_cannot_change() -> None:
    point = Point(1)
    with pytest.raises(AttributeError, match=r"Point\.x cannot be set"):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match=r"Point\.y cannot be deleted"):
        del point.y
    assert point == Point(1)


def test_records_are_equal_by_class_and_parts() -> None:
    assert Point(1, 2) != Point(2, 1)
    assert Point(1) != Named(1)
    assert Point(1).__eq__((1, 0)) is NotImplemented
    assert len({Point(1), Point(1, 0), Point(2)}) == 2


def test_a_record_shows_its_parts() -> None:
    assert repr(Point(1)) == "Point(x=1, y=0)"
