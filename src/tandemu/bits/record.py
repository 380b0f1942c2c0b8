"""Records: immutable values with named parts, whose classes are made quickly.

What this project uses of `dataclasses`, without the source text which that writes and compiles
for each class, and without `inspect`, which it loads: a fifth of the time from the process's start
to a guest's first instruction. Here a class costs some microseconds. A value costs two to make, so
what is made often is a `typing.NamedTuple`; what neither the start of a machine nor that of the
compiler's process loads may use `dataclasses`.

`Mutable` is the same for what changes. Left out: fields that are no arguments, defaults that are
made anew for each value, slots.

>>> class Point(Record):
...     x: int
...     y: int = 0
>>> Point(1), Point(1) == Point(x=1, y=0), replace(Point(1), y=7)
(Point(x=1, y=0), True, Point(x=1, y=7))
>>> Point(y=2)
Traceback (most recent call last):
    ...
TypeError: Point lacks x: it takes x, y
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn, TypeVar, dataclass_transform


class Signature(NamedTuple):
    """What a class is made of: the *names* of its parts in order, *defaults* of the last."""

    names: tuple[str, ...]
    defaults: Mapping[str, Any]

    def bind(self, what: str, values: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        """Values by name, from those that were given for a *what*; TypeError if they do not fit."""
        given = {**self.defaults, **dict(zip(self.names, values, strict=False)), **named}
        twice = named.keys() & self.names[: len(values)]
        if len(given) == len(self.names) >= len(values) and not twice:
            return given
        takes = f": it takes {', '.join(self.names)}"
        for fault, names in (
            ("lacks", [name for name in self.names if name not in given]),
            ("has no", [name for name in given if name not in self.names]),
            ("is given twice", sorted(twice)),
        ):
            if names:
                raise TypeError(f"{what} {fault} {', '.join(names)}{takes}")
        raise TypeError(f"{what} is given {len(values)} values{takes}")


def signature(cls: type) -> Signature:
    """The annotated attributes of *cls*, those of its bases first; not those of the class itself.

    Annotations are text here: every module begins with ``from __future__ import annotations``.
    """
    names: dict[str, None] = {}
    for base in reversed(cls.__mro__):
        for name, kind in getattr(base, "__annotations__", {}).items():
            if not kind.startswith("ClassVar"):
                names[name] = None
    return Signature(
        tuple(names), {name: getattr(cls, name) for name in names if hasattr(cls, name)}
    )


class _Parts:
    """What has parts: a subclass annotates them, a value behind one is a default."""

    _signature: ClassVar[Signature]

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls._signature = signature(cls)

    def __init__(self, *values: Any, **named: Any) -> None:
        known = self._signature
        if named or len(values) != len(known.names):
            self.__dict__.update(known.bind(type(self).__name__, values, named))
        else:
            self.__dict__.update(zip(known.names, values, strict=True))


@dataclass_transform(frozen_default=True)
class Record(_Parts):
    """Base of immutable values.

    Two are equal if they are of one class and all their parts are. `__post_init__` may refuse.
    """

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(*values, **named)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Refuse what cannot be, by raising."""

    def parts(self) -> dict[str, Any]:
        """Its parts by name, in the order in which they are declared."""
        return {name: self.__dict__[name] for name in self._signature.names}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record) or type(other) is not type(self):
            return NotImplemented
        return self.parts() == other.parts()

    def __hash__(self) -> int:
        return hash(tuple(self.parts().values()))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={part!r}" for name, part in self.parts().items())
        return f"{type(self).__name__}({shown})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be set: make another value")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted")


@dataclass_transform(eq_default=False)
class Mutable(_Parts):
    """Base of values that change: each is equal to itself alone."""


AnyRecord = TypeVar("AnyRecord", bound=Record)


def replace(record: AnyRecord, **changes: object) -> AnyRecord:
    """*record* with other values for some of its parts."""
    return type(record)(**{**record.parts(), **changes})
