"""What a builder leaves behind: a function as a tree of nodes.

Control flow is structured: `If`, `Loop` with `Break`, `Switch`. What follows control
flow that is not (a guest's) has `Place`s in the function's outermost block and a `Goto`
where it likes. A function ends in `Return`, `TailCall`, `Goto` or `Unreachable` on
every path.
"""

from __future__ import annotations

from typing import Any

from tandemu.bits import Mutable
from tandemu.ir.operations import Operation
from tandemu.ir.types import Type
from tandemu.ir.values import Value


class Variable(Mutable):
    """A mutable local of one type."""

    type: Type
    number: int


class Do(Mutable):
    """result = operation(operands); a variable access has its variable in *attributes*."""

    operation: Operation
    operands: tuple[Value, ...]
    attributes: tuple[Any, ...]
    result: Value | None


class Get(Mutable):
    """result = variable."""

    variable: Variable
    result: Value


class Set(Mutable):
    """variable = value."""

    variable: Variable
    value: Value


class Call(Mutable):
    """result = target(operands); *target* is a function, a name, or a pointer value."""

    target: Function | str | Value
    operands: tuple[Value, ...]
    result: Value | None
    convention: str


class TailCall(Mutable):
    """Leave this function for *target*, which returns to this one's caller."""

    target: Function | str | Value
    operands: tuple[Value, ...]


class If(Mutable):
    """One of two blocks. *likely*: True or False if one is nearly always taken."""

    condition: Value
    then: list[Node]
    otherwise: list[Node]
    likely: bool | None


class Loop(Mutable):
    """Repeat *body* until a `Break` in it."""

    body: list[Node]


class Switch(Mutable):
    """The block of the first case that holds the value, else *default*."""

    value: Value
    cases: list[tuple[tuple[int, ...], list[Node]]]
    default: list[Node]


class Break(Mutable):
    """Leave the innermost loop."""


class Place(Mutable):
    """Where `Goto` goes: only in the outermost block of a function."""

    number: int


class Goto(Mutable):
    """Go on at *place*; values do not come along, variables do."""

    place: Place


class Return(Mutable):
    """Return to the caller."""

    value: Value | None


class Unreachable(Mutable):
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


class Function(Mutable):
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
    attributes: str
    exported: bool
    callees: list[Function]
    symbols: dict[str, Any]
    """Holes by name: `Symbol`."""
    relaxed: bool = False
    """Whether LLVM may reason about floating-point operations as if nobody looked at flags: it
    may make vectors of them, leave out those whose results are not used, and fold constants."""
