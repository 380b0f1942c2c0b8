"""What a builder leaves behind: a function as a tree of nodes.

Control flow is structured: `If`, `Loop` with `Break`, `Switch`. What follows control
flow that is not (a guest's) has `Place`s in the function's outermost block and a `Goto`
where it likes. A function ends in `Return`, `TailCall`, `Goto` or `Unreachable` on
every path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tandemu.ir.operations import Operation
from tandemu.ir.types import Type
from tandemu.ir.values import Value


@dataclass(eq=False)
class Variable:
    """A mutable local of one type."""

    type: Type
    number: int


@dataclass(eq=False)
class Do:
    """result = operation(operands); a variable access has its variable in *attributes*."""

    operation: Operation
    operands: tuple[Value, ...]
    attributes: tuple[Any, ...]
    result: Value | None


@dataclass(eq=False)
class Get:
    """result = variable."""

    variable: Variable
    result: Value


@dataclass(eq=False)
class Set:
    """variable = value."""

    variable: Variable
    value: Value


@dataclass(eq=False)
class Call:
    """result = target(operands); *target* is a function, a name, or a pointer value."""

    target: Function | str | Value
    operands: tuple[Value, ...]
    result: Value | None
    convention: str


@dataclass(eq=False)
class TailCall:
    """Leave this function for *target*, which returns to this one's caller."""

    target: Function | str | Value
    operands: tuple[Value, ...]


@dataclass(eq=False)
class If:
    """One of two blocks. *likely*: True or False if one is nearly always taken."""

    condition: Value
    then: list[Node]
    otherwise: list[Node]
    likely: bool | None


@dataclass(eq=False)
class Loop:
    """Repeat *body* until a `Break` in it."""

    body: list[Node]


@dataclass(eq=False)
class Switch:
    """The block of the first case that holds the value, else *default*."""

    value: Value
    cases: list[tuple[tuple[int, ...], list[Node]]]
    default: list[Node]


@dataclass(eq=False)
class Break:
    """Leave the innermost loop."""


@dataclass(eq=False)
class Place:
    """Where `Goto` goes: only in the outermost block of a function."""

    number: int


@dataclass(eq=False)
class Goto:
    """Go on at *place*; values do not come along, variables do."""

    place: Place


@dataclass(eq=False)
class Return:
    """Return to the caller."""

    value: Value | None


@dataclass(eq=False)
class Unreachable:
    """Control never comes here."""


Node = (
    Do
    | Get
    | Set
    | Call
    | TailCall
    | If
    | Loop
    | Switch
    | Break
    | Place
    | Goto
    | Return
    | Unreachable
)
TERMINATORS = (TailCall, Break, Goto, Return, Unreachable)


@dataclass(eq=False)
class Function:
    """A finished function.

    *convention*: ``c``, ``tail`` (guaranteed tail calls, preserves no register) or
    ``cold`` (preserves the general registers: calling it disturbs little).
    """

    name: str
    parameters: list[Value]
    result: Type | None
    convention: str
    body: list[Node]
    variables: list[Variable]
    count: int
    attributes: str = ""
    exported: bool = True
    callees: list[Function] = field(default_factory=list)
    symbols: dict[str, Any] = field(default_factory=dict)
    """Holes by name: `Symbol`."""
